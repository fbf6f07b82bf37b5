"""The Python client against a server on a port, the command line's part, and the guide's examples."""

from __future__ import annotations

import importlib.util
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.cli import main
from fewseg.cli.serve import Options, _announce, _token, run
from fewseg.client import Client, ServerError
from fewseg.core.errors import InvalidImage, InvalidOption
from fewseg.inference.segmenter import Segmenter
from fewseg.server.limits import Limits
from fewseg.server.listen import address_of, seen_by_others
from helpers.colour_method import COLOURS, ColourMethod, blob, iou
from helpers.server import app, listening
from helpers.touching import chain

GUIDE = Path(__file__).parents[2] / "docs/guides/api.md"
TOKEN = "a-token-for-tests"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening(app(token=TOKEN, limits=Limits(waiting=2))) as one:
        yield one


def test_teaches_segments_forgets_and_keeps(address: str, tmp_path: Path) -> None:
    client = Client(address, TOKEN)
    assert client.info()["image_size"] == 64
    image, truth = blob("red", size=(150, 80))
    image.save(tmp_path / "a.png")
    with client.session("colours") as session:
        name = "red/%2F ü?#"
        session.teach(name, tmp_path / "a.png", truth > 0)
        session.teach("blue", [blob("blue")[0], np.asarray(blob("blue", place=0.4)[0])],
                      [blob("blue")[1], blob("blue", place=0.4)[1]])  # fmt: skip
        assert {label: len(shots) for label, shots in session.labels.items()} == {name: 1, "blue": 2}
        found = session.segment(tmp_path / "a.png")
        assert iou(found.masks[name], truth) > 0.95
        assert found.present[name]
        assert list(session.segment(image, ["blue"]).masks) == ["blue"]
        session.save(tmp_path / "taught.fewseg")
        session.forget("blue", session.labels["blue"][0])
        session.forget(name)
        assert {label: len(shots) for label, shots in session.labels.items()} == {"blue": 1}
        with pytest.raises(ServerError, match="no label") as gone:
            session.forget(name)
        assert gone.value.status == 404
    with pytest.raises(ServerError, match="no session"):
        session.segment(image)
    again = client.load(tmp_path / "taught.fewseg")
    np.testing.assert_array_equal(again.segment(image).masks[name], found.masks[name])
    library = Segmenter.load(tmp_path / "taught.fewseg", ColourMethod(), device="cpu")
    np.testing.assert_array_equal(library.segment(image).masks[name], found.masks[name])
    again.delete()


@pytest.mark.parametrize("orientation", [3, 6])
def test_pillow_images_are_sent_upright(address: str, tmp_path: Path, orientation: int) -> None:
    image, truth = blob("red", size=(150, 80), place=0.3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    image.rotate({3: 180, 6: 90}[orientation], expand=True).save(path, exif=exif)
    with Client(address, TOKEN).session() as session:
        session.teach("red", Image.open(path), truth, value=np.int64(255))
        found = [session.segment(picture).masks["red"] for picture in (path, Image.open(path), image)]
    for mask in found:
        assert mask.shape == (80, 150)
        assert iou(mask, truth) > 0.9


@pytest.mark.parametrize("token", ["a token\nand more", "ä€"])
def test_tokens_that_cannot_be_sent(address: str, token: str) -> None:
    with pytest.raises(ServerError, match="the address or the token cannot be sent") as caught:
        Client(address, token).info()
    assert "\n" not in str(caught.value)


def test_what_goes_wrong_is_one_line(address: str, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="a token is needed"):
        Client(address).info()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ServerError, match="is fewseg serve running"):
            Client(f"http://127.0.0.1:{unused.getsockname()[1]}").info()
    with pytest.raises(ServerError, match="write it as"):
        Client("localhost:8000")
    with pytest.raises(ServerError, match="nonnumeric port"):
        Client("http://127.0.0.1:abc").info()
    with Client(address, TOKEN).session() as session:
        with pytest.raises(InvalidImage, match="cannot be read"):
            session.segment(tmp_path / "none.png")
        with pytest.raises(InvalidImage, match="is no image"):
            session.segment(np.zeros((3, 3, 3), np.complex64))
        with pytest.raises(InvalidImage, match="a float is no image"):
            session.segment(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "cannot be reached"),  # cut off
        (b"SSH-2.0-OpenSSH_9.6\r\n", "cannot be reached"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "does not answer as fewseg serve does"),
    ],
)
def test_what_is_no_server_of_ours(answer: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ServerError, match=said) as caught:
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}").info()
        thread.join()
    assert "\n" not in str(caught.value)


def test_the_first_of_several_frames_is_used_and_told(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, mask = blob("red")
    image.save(tmp_path / "a.gif", save_all=True, append_images=[image.rotate(90)])
    with Client(address, TOKEN).session() as session:
        session.teach("red", image, mask)
        assert caplog.messages == []
        session.segment(tmp_path / "a.gif")
    assert "the image's file has several frames: only the first is used" in caplog.messages


def test_many_clients_at_once_lose_nothing(address: str) -> None:
    """More than the queue holds: those turned away come again by themselves."""
    truths = {name: blob(name, size=(80, 60)) for name in COLOURS}
    right: list[str] = []

    def work(name: str) -> None:
        with Client(address, TOKEN, retries=60).session(name) as session:
            for place in (0.4, 0.5):
                session.teach(name, *blob(name, place=place))
            for _ in range(4):
                if iou(session.segment(truths[name][0]).masks[name], truths[name][1]) > 0.9:
                    right.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in list(COLOURS) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(right) == 36


def test_the_guides_python_example_works(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, colour in (("tom", "red"), ("tim", "red"), ("rex", "blue")):
        image, mask = blob(colour, place=0.4 if name == "tim" else 0.5)
        image.save(f"{name}.jpg", quality=95)
        Image.fromarray(mask).save(f"{name}.png")
    blob("red", "blue")[0].save("street.jpg")
    (example,) = re.findall(r"```python\n(from fewseg.client.*?)```", GUIDE.read_text(), re.DOTALL)
    code = example.replace('"http://127.0.0.1:8000"', f'"{address}"').replace("token=None", f'token="{TOKEN}"')
    exec(compile(code, str(GUIDE), "exec"), {})
    assert Path("found-cat.png").exists()
    assert Path("pets.fewseg").exists()


# ------------------------------------------------------------------------------------------------ the command


def test_a_busy_port_and_wrong_options_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    said = capsys.readouterr().err
    assert "choose another with --port" in said
    assert said.count("\n") == 1
    for options, line in (
        (Options(folder=tmp_path / "none"), "not a folder"),
        (Options(host="no.such.host.invalid"), "give an address of this machine"),
        (Options(port=70000), "port 70000"),
        (Options(token="short"), "fewer than 8"),
    ):
        with pytest.raises((InvalidOption, InvalidImage), match=line):
            run(options)


def test_a_token_is_made_up_where_others_can_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEWSEG_TOKEN", raising=False)
    assert _token(Options()) is None
    assert _token(Options(host="localhost")) is None
    assert len(_token(Options(host="0.0.0.0")) or "") >= 20
    assert _token(Options(token="auto")) != _token(Options(token="auto"))
    monkeypatch.setenv("FEWSEG_TOKEN", "from-the-environment")
    assert _token(Options()) == "from-the-environment"
    assert address_of("0.0.0.0", 80) == "http://localhost:80"
    assert address_of("::1", 81) == "http://[::1]:81"


def test_other_machines_are_told_an_address_with_the_token(capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(host="0.0.0.0")
    _announce(options, "http://localhost:8000", "http://localhost:8000/?token=abc", "abc")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "from other machines" in line]
    assert line.endswith(":8000/?token=abc")
    assert "localhost" not in line
    assert seen_by_others("192.168.1.5") == "192.168.1.5"
    assert seen_by_others("box.example.org") == "box.example.org"


def test_without_the_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "fastapi" else real(name, *more)
    )
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == "fewseg: error: fewseg serve needs fastapi: pip install 'fewseg[serve]'\n"


def test_stopping_ends_the_streams_of_open_pages(tmp_path: Path) -> None:
    """Ctrl-C with a page open: no waiting for it, no trace."""
    Image.new("RGB", (40, 30), "navy").save(tmp_path / "a.png")
    program = "import sys; from fewseg.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{address}api/v1/events", timeout=60) as stream:
            assert stream.readline() == b"retry: 1000\n"
            process.send_signal(signal.SIGINT)
            while stream.readline():
                pass
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (0, "fewseg: stopped\n")


def test_single_objects_and_kinds(address: str) -> None:
    pair = np.pad(chain(2, 14.0), 10)
    pixels = np.full((*pair.shape, 3), 128, np.uint8)
    pixels[pair > 0] = COLOURS["red"]
    with Client(address, TOKEN).session() as session:
        session.teach("red", pixels, pair.astype(np.uint8), value="instances")
        found = session.segment(pixels, objects=True)
        assert len(found.objects["red"]) == 2
        union = np.any([one.mask for one in found.objects["red"]], axis=0)
        np.testing.assert_array_equal(union, found.masks["red"])
        for one in found.objects["red"]:
            left, top, right, bottom = one.box
            rows, columns = np.nonzero(one.mask)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)
            assert one.area == len(rows)
            assert 0.5 <= one.score <= 1
        assert session.segment(pixels).objects == {}
        session.set_kind("red", "stuff")
        assert session.segment(pixels, objects=True).objects == {}
        with pytest.raises(ServerError, match="no label"):
            session.set_kind("blue", "stuff")
        session.set_kind("red", None)
        assert len(session.segment(pixels, objects=True).objects["red"]) == 2
