"""`fewseg segment` as a person meets it: results, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewseg import cli
from fewseg.models.checkpoints import save_method
from fewseg.models.methods import create_method
from helpers.colour_method import blob, write_support


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_method(create_method("dcama", backbone="tiny", image_size=64), path)
    return path


@pytest.fixture
def support(tmp_path: Path) -> Path:
    return write_support(tmp_path / "support", "red", "blue", shots=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("red", "blue", "green"):
        blob(name)[0].save(folder / f"{name}.jpg")
    return folder


def arguments(support: Path, query: Path, checkpoint: Path | str, *more: str) -> list[str]:
    out = support.parent / "out"
    fixed = ["segment", "--support", str(support), "--input", str(query), "--out", str(out)]
    return [*fixed, "--model", str(checkpoint), "--device", "cpu", *more]


def fails(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> None:
    """The last command said one line on stderr, an error that holds all the words."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fewseg:")]
    assert len(lines) == 1
    assert lines[0].startswith("fewseg: error: ")
    for word in words:
        assert word in lines[0]


def test_segments(support: Path, photos: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = arguments(support, photos, checkpoint, "--tta-scales", "1", "1.5", "--tta-flip", "--precision", "float32")
    assert cli.main(call) == 0
    assert "3 segmented, 0 already finished" in capsys.readouterr().err
    out = support.parent / "out"
    content = json.loads((out / "results.json").read_text())
    assert [p["name"] for p in content["pictures"]] == ["blue", "green", "red"]
    assert content["support"] == {"blue": 1, "red": 1}
    assert content["options"]["input_sizes"] == [64, 96]
    assert np.asarray(Image.open(out / "labels" / "red.png")).shape == (64, 96)
    assert cli.main(call) == 0
    assert "0 segmented, 3 already finished" in capsys.readouterr().err
    assert cli.main([*call, "--overwrite", "--no-overlays"]) == 0
    assert "3 segmented" in capsys.readouterr().err


def test_unreadable_images_are_named_at_the_end(
    support: Path, photos: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes((photos / "red.jpg").read_bytes()[:400])
    assert cli.main(arguments(support, photos, checkpoint)) == 2
    fails(capsys, "1 of 4 images failed", "broken.jpg", "results.json")
    content = json.loads((support.parent / "out" / "results.json").read_text())
    assert (len(content["pictures"]), len(content["errors"])) == (3, 1)


def test_bad_support(tmp_path: Path, photos: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(tmp_path / "none", photos, checkpoint)) == 2
    fails(capsys, "support folder", "none does not exist")
    (tmp_path / "empty").mkdir()
    assert cli.main(arguments(tmp_path / "empty", photos, checkpoint)) == 2
    fails(capsys, "empty has no label folders")
    other = write_support(tmp_path / "other", "red", shots=1)
    Image.fromarray(np.full((5, 5), 255, np.uint8)).save(other / "red" / "0.png")
    assert cli.main(arguments(other, photos, checkpoint)) == 2
    fails(capsys, "0.png is 5x5, its image 96x64")
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(other / "red" / "0.png")
    assert cli.main(arguments(other, photos, checkpoint)) == 2
    fails(capsys, "0.png has no foreground")
    levels = np.zeros((64, 96), np.uint8)
    levels[10:20], levels[30:40] = 7, 255
    Image.fromarray(levels).save(other / "red" / "0.png")
    assert cli.main(arguments(other, photos, checkpoint)) == 2
    fails(capsys, "0.png has more than two values (0, 7, 255): save it with 0 and 255 only")
    Image.fromarray(levels).save(other / "red" / "0.jpeg")
    assert cli.main(arguments(other, photos, checkpoint)) == 2
    fails(capsys, "0.png is the mask of 0.jpeg and of 0.jpg")
    (other / "red" / "0.jpeg").unlink()
    (other / "red" / "0.jpg").write_bytes(b"no image")
    assert cli.main(arguments(other, photos, checkpoint)) == 2
    fails(capsys, "0.jpg is not a readable image")
    assert not (tmp_path / "out").exists()


def test_an_empty_file_is_not_finished(
    support: Path, photos: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A power cut can leave one behind."""
    call = arguments(support, photos, checkpoint)
    assert cli.main(call) == 0
    before = {name: (support.parent / "out" / name).read_bytes() for name in ("masks/red/blue.png", "overlays/red.jpg")}
    for name in before:
        (support.parent / "out" / name).write_bytes(b"")
    capsys.readouterr()
    assert cli.main(call) == 0
    assert "2 segmented, 1 already finished" in capsys.readouterr().err
    assert before == {name: (support.parent / "out" / name).read_bytes() for name in before}


def test_a_batch_is_no_larger_than_the_images_are_many(support: Path, photos: Path, checkpoint: Path) -> None:
    assert cli.main(arguments(support, photos, checkpoint, "--batch-size", "4096")) == 0


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def allocate(options: object) -> int:
        torch.zeros(1 << 60)
        return 0

    monkeypatch.setattr("fewseg.cli.demo.run", allocate)
    assert cli.main(["demo"]) == 2
    fails(capsys, "not enough memory", "--image-size")

    def fail(options: object) -> int:
        raise RuntimeError("something else")

    monkeypatch.setattr("fewseg.cli.demo.run", fail)
    with pytest.raises(RuntimeError, match="something else"):
        cli.main(["demo"])


def test_wrong_checkpoint(
    support: Path, photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.safetensors").write_text("no")
    for wrong in (tmp_path / "text.safetensors", tmp_path / "none.safetensors"):
        assert cli.main(arguments(support, photos, wrong)) == 2
        fails(capsys, str(wrong))
    assert cli.main(arguments(support, photos, f"dcama:resnet5:{checkpoint}")) == 2
    fails(capsys, "did you mean 'resnet50'")
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    assert cli.main(arguments(support, photos, f"dcama:resnet50:{tmp_path / 'a.pt'}")) == 2
    fails(capsys, "a.pt")


def test_unwritable_output(support: Path, photos: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (support.parent / "out").write_text("a file")
    assert cli.main(arguments(support, photos, checkpoint)) == 2
    fails(capsys, "cannot make the folder", "out")


def test_interruption_says_how_to_go_on(
    support: Path,
    photos: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fewseg.inference.segmenter.Segmenter.predict", interrupt)
        assert cli.main(arguments(support, photos, checkpoint)) == 130
    assert "run the same command again to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["segmnt"], ["unknown command 'segmnt'; did you mean 'segment'"]),
        (["--versoin"], ["did you mean '--version'"]),
        (["segment", "--suport", "a", "--input", "b", "--out", "c"], ["'--suport'; did you mean '--support'"]),
        (["segment", "--support", "a", "--input", "b", "--out", "c", "--overlay"], ["--overlays"]),
        (["segment", "--input", "b"], ["missing --out", "fewseg segment --help"]),
        (["segment", "--support", "a", "--input", "b", "--out", "c", "--tta-scales", "x"], ["--tta-scales", "x"]),
        (["segment", "--support", "a", "--out", "c", "--input"], ["no images to segment"]),
        (["segment", "--input", "b", "--out", "c"], ["missing --support", "fewseg segment --help"]),
        (["segment", "a"], ["fewseg segment --help"]),
    ],
)
def test_wrong_options(wrong: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(wrong) == 2
    fails(capsys, *words)


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--device", "cuba", "did you mean 'cuda'"),
        ("--precision", "bfloat", "did you mean 'bfloat16'"),
        ("--tta-scales", "0", "scales"),
        ("--presence-threshold", "7", "threshold"),
        ("--batch-size", "-1", "batch size"),
    ],
)
def test_impossible_values(
    option: str,
    value: str,
    word: str,
    support: Path,
    photos: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(arguments(support, photos, checkpoint, f"{option}={value}")) == 2
    fails(capsys, word)


def test_a_release_needs_its_file(support: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["segment", "--support", str(support), "--input", str(photos), "--out", str(photos / "out")]
    assert cli.main([*call, "--official", "resnet50"]) == 2
    error = capsys.readouterr().err
    assert "give the file, --model dcama:resnet50:FILE" in error
    assert len(error.strip().splitlines()) == 1  # no bar that never began to move


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "segment" in capsys.readouterr().out
    assert cli.main(["segment", "--help"]) == 0
    said = capsys.readouterr().out
    for word in ("--support", "--tta-scales", "LABEL/name.jpg", "user/name"):
        assert word in said
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fewseg ")
    assert cli.main([]) == 2


def process(call: list[str], limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; `limit` is the largest file, in bytes, that it can write."""
    code = "import sys; from fewseg.cli import main; sys.exit(main())"
    if limit is not None:  # a file size limit fails like a full disk, and needs no disk to fill
        code = (
            "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); " + code
        )
    return subprocess.run([sys.executable, "-c", code, *call], capture_output=True, text=True, env={**os.environ})


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_full_disk(support: Path, photos: Path, checkpoint: Path) -> None:
    done = process(arguments(support, photos, checkpoint), limit=600)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("fewseg: error: cannot write")]
    assert len(lines) == 1
    assert not list((support.parent / "out").rglob("*.tmp"))
    assert cli.main(arguments(support, photos, checkpoint)) == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_huge_and_tiny_images(support: Path, checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "huge"
    folder.mkdir()
    make = "from PIL import Image; Image.linear_gradient('L').resize((12000, 9000)).convert('RGB').save(%r)"
    subprocess.run([sys.executable, "-c", make % str(folder / f"huge.{suffix}")], check=True)
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    # What the system counts of a child begins with what its parent had: the process reads its own peak.
    code = (
        "import sys; from fewseg.cli import main; code = main(); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))); sys.exit(code)"
    )
    call = [sys.executable, "-c", code, *arguments(support, folder, checkpoint)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = support.parent / "out"
    with Image.open(out / "labels" / "dot.png") as image:
        assert image.size == (1, 1)
    entry = next(p for p in json.loads((out / "results.json").read_text())["pictures"] if p["name"] == "huge")
    assert entry["size"] == [12000, 9000]
    peak = int(done.stdout.split()[-2]) / 2**20
    assert peak < 2.5, f"{peak:.1f} GiB"


def test_masks_of_the_examples_are_no_queries(support: Path, checkpoint: Path) -> None:
    """The support folder may be the query folder too."""
    assert cli.main(arguments(support, support, checkpoint)) == 0
    results = json.loads((support.parent / "out" / "results.json").read_text())
    names = {Path(image["picture"]).name for image in results["pictures"]}
    masks = {path.name for path in support.rglob("*.png")}
    assert names
    assert masks
    assert not names & masks


def test_a_range_and_pages(
    support: Path, photos: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    frames = [blob("red")[0]] * 2
    frames[0].save(photos / "stack.tif", save_all=True, append_images=frames[1:])
    assert cli.main(arguments(support, photos, checkpoint, "--pages", "--range", "0", "4095")) == 0
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 5
    assert cli.main(arguments(support, photos, checkpoint, "--range", "5", "5")) == 2
    fails(capsys, "range 5 5", "black and white")


def test_folders_that_may_not_be_entered(
    support: Path,
    photos: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Python's `Path.is_file` and its like raise there, wherever they are used."""
    (photos / "closed").mkdir()
    real = os.stat

    def refused(path: object, *args: object, **kwargs: object) -> os.stat_result:
        if "/closed/" in os.fspath(path) if isinstance(path, (str, os.PathLike)) else False:
            raise PermissionError(13, "Permission denied", os.fspath(path))  # type: ignore[arg-type]
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refused)  # permissions do not stop who may do anything
    closed = str(tmp_path / "photos/closed/x")
    for call in (
        ["segment", "--support", closed, "--input", str(photos), "--out", str(tmp_path / "out")],
        ["segment", "--support", str(support), "--input", str(photos), "--out", closed],
        ["segment", "--support", str(support), "--input", str(photos), "--out", "o", "--model", closed],
        ["train", "--data", f"{closed}@all", "--out", str(tmp_path / "run"), "--random-backbone"],
        ["evaluate", "--data", f"{closed}@all", "--out", str(tmp_path / "e"), "--model", str(checkpoint)],
        ["prepare", "--benchmark", "pascal5i", "--root", closed],
        ["export", "--support", closed, "--out", str(tmp_path / "export")],
        ["serve", closed],
        ["segment", "--support", "x" * 5000, "--input", str(photos), "--out", str(tmp_path / "out")],
    ):
        assert cli.main(call) == 2, call
        fails(capsys, "closed" if "closed" in str(call) else "xxx")
