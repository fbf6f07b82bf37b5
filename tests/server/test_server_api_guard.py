"""Who may ask, from where, and how much: what stands before every route."""

from __future__ import annotations

import asyncio
import base64
import errno
import functools
import http.client
import json
import os
import re
import select
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fewseg.core.errors import InvalidOption
from fewseg.server import bodies, connections
from fewseg.server.api_errors import ApiError
from fewseg.server.limits import Limits
from fewseg.server.queue import RequestQueue
from helpers.colour_method import blob
from helpers.server import SESSIONS, app, client, listening, png, refused

INFO = "/api/v1/info"
TOKEN = "a-token-for-tests"


@functools.cache
def ask(token: str | None = None, names: tuple[str, ...] = ()) -> TestClient:
    """One app for all tests that leave nothing behind."""
    return client(token=token, names=names)


# ---------------------------------------------------------------------------------------- names, sites, tokens


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:9", "[::1]:80", "192.168.1.7", "mill", "mill."]
)
def test_own_names_and_addresses_are_answered(host: str) -> None:
    assert ask(names=("Mill",)).get(INFO, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "mill"]
)
def test_other_names_are_refused(host: str) -> None:
    answer = ask().get(INFO, headers={"Host": host})
    assert answer.status_code == 403
    assert "--allow-host" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Origin": "http://localhost"}, 201),
        ({"Origin": "http://localhost:80", "Sec-Fetch-Site": "same-origin"}, 201),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),  # a form on another site
    ],
)
def test_other_sites_cannot_write(headers: dict[str, str], status: int) -> None:
    assert ask().post(SESSIONS, headers=headers).status_code == status


def test_other_sites_may_link_to_the_page_but_not_embed_images() -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask().get("/health", headers=link).status_code == 200
    assert ask().get(INFO, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}).status_code == 403


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"fewseg:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"bearer {TOKEN}"}, 200),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Bearer {TOKEN[:-1]}\xe9".encode("latin-1")}, 401),
        (basic(TOKEN), 200),
        (basic("wrong"), 401),
        ({"Authorization": "Basic !!"}, 401),
        ({"Cookie": f"fewseg_token_80={TOKEN}"}, 200),
        ({"Cookie": "fewseg_token_80=other"}, 401),
        ({"Cookie": f"fewseg_token_8000=other; fewseg_token_80={TOKEN}"}, 200),  # of a server at another port
    ],
)
def test_the_token(headers: Any, status: int) -> None:
    answer = ask(TOKEN).get(INFO, headers=headers)
    assert answer.status_code == status
    assert TOKEN not in answer.text


def test_the_first_address_sets_the_cookie_and_hides_the_token() -> None:
    one = client(token=TOKEN)
    assert one.get("/?token=wrong").status_code == 401
    answer = one.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert one.get(INFO).status_code == 200
    assert one.get("/health").status_code == 200
    assert ask(TOKEN).get(f"{INFO}?token={TOKEN}").status_code == 401  # addresses end in logs


def test_every_answer_says_what_browsers_may_do_with_it() -> None:
    for path in (INFO, "/nothing", "/health"):
        headers = ask().get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/api/v1/sessions/..%2f..%2fetc", "//x"]
)
def test_paths_lead_nowhere_else(path: str) -> None:
    answer = ask().get(path)
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


# -------------------------------------------------------------------------------------------------- size, time


PATIENCE = 60
"""Seconds to wait for what comes at once where the machine has time."""


def raw(address: str, head: str, parts: list[bytes], pause: float = 0.0) -> bytes:
    """What the server says to a request sent by hand; it may hang up while we are sending."""
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=PATIENCE) as connection:
        connection.sendall(head.format(place=place.netloc).encode())
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except OSError:
            pass
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            received = connection.recv(4096)
            if not received:
                break
            answer += received
        return answer


POST = "POST /api/v1/sessions HTTP/1.1\r\nHost: {place}\r\nContent-Type: application/json\r\n"


def test_large_requests_end_while_they_arrive() -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with listening(app(limits=Limits(request_mb=1))) as address:
        announced = raw(address, POST + "Content-Length: 2000000\r\n\r\n", [])
        assert b" 413 " in announced
        assert b"more than 1 MB" in announced
        streamed = raw(address, POST + "Transfer-Encoding: chunked\r\n\r\n", [chunk] * 40)
        assert b" 413 " in streamed


def test_slow_requests_end_while_they_arrive() -> None:
    with listening(app(limits=Limits(request_mb=1, seconds=0.6))) as address:
        start = time.monotonic()
        slow = raw(address, POST + "Content-Length: 50\r\n\r\n", [b" "] * 10, pause=0.1)
        assert b" 408 " in slow
        assert time.monotonic() - start < PATIENCE
        assert b" 400 " in raw(address, POST + "Content-Length: x\r\n\r\n", [])
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
        connection.request("GET", INFO)
        assert connection.getresponse().status == 200


def test_uploads_at_the_same_time_are_bounded() -> None:
    with listening(app(limits=Limits(uploads=1, seconds=60))) as address:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port)) as slow:
            slow.sendall((POST.format(place=place.netloc) + "Content-Length: 20\r\n\r\n").encode() + b" ")
            end = time.monotonic() + PATIENCE
            answer = b""
            while b" 503 " not in answer and time.monotonic() < end:  # until the slow one has arrived in part
                answer = raw(address, POST + "Content-Length: 2\r\n\r\n", [b"{}"])
            assert b" 503 " in answer
            assert b"retry-after: 1" in answer.lower()


def half_open(address: str, count: int) -> list[socket.socket]:
    """Connections that sent half a header."""
    place = urlsplit(address)
    assert place.hostname is not None
    made = [socket.create_connection((place.hostname, place.port or 80), timeout=PATIENCE) for _ in range(count)]
    for connection in made:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")
    return made


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("token", [None, TOKEN])
def test_half_open_connections_end_and_others_are_served(token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MOST", 20)
    limits = Limits(header_seconds=1.5)
    with listening(app(limits=limits, token=token), limits) as address:
        waiting = half_open(address, 60)
        assert health(address) == 200
        assert all(closed(connection) for connection in waiting[:40])  # at once: the oldest of too many
        begin = time.monotonic()
        while time.monotonic() < begin + 1:  # whoever goes on sending bytes of a header gains nothing
            with suppress(OSError):  # it is closed already
                waiting[-1].sendall(b"x")
            time.sleep(0.1)
        assert all(closed(connection) for connection in waiting)
        silent = socket.create_connection(
            (urlsplit(address).hostname or "", urlsplit(address).port or 0), timeout=PATIENCE
        )
        assert closed(silent)


def test_a_connection_is_used_again_and_ends_when_idle() -> None:
    limits = Limits(header_seconds=3)
    with listening(app(limits=limits), limits) as address:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
        for pause in (0.0, 1.1, 1.1, 1.1):  # longer together
            time.sleep(pause)
            connection.request("POST", SESSIONS, b"{}", {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 201
            answer.read()
        assert connection.sock is not None
        assert closed(connection.sock)


def health(address: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
    connection.request("GET", "/health")
    return connection.getresponse().status


def test_slow_bodies_give_way_to_others() -> None:
    with listening(app(limits=Limits(uploads=4, seconds=60))) as address:
        place = urlsplit(address)
        head = (POST.format(place=place.netloc) + "Content-Length: 200\r\n\r\n").encode()
        slow = [socket.create_connection((place.hostname or "", place.port or 0), timeout=PATIENCE) for _ in range(4)]
        for connection in slow:
            connection.sendall(head + b" ")
        assert health(address) == 200  # has no body
        time.sleep(1.2)
        for _ in range(3):
            assert b" 201 " in raw(address, POST + "Content-Length: 2\r\n\r\n", [b"{}"])
        ended = [connection for connection in slow if select.select([connection], [], [], 0)[0]]
        assert len(ended) == 1
        assert b" 408 " in ended[0].recv(4096)


def test_bodies_that_trickle_end() -> None:
    with listening(app(limits=Limits(seconds=60))) as address:
        bodies._GRACE, before = 0.5, bodies._GRACE
        try:
            begin = time.monotonic()
            head = POST + "Content-Length: 200\r\n\r\n"
            assert b" 408 " in raw(address, head, [b" "] * 12, pause=0.1)
            assert time.monotonic() - begin < 30  # of the 60 that a whole request has
            fast = [b" " * 40_000] * 20  # slow as a whole, and yet fast enough
            assert b" 201 " in raw(address, POST + "Content-Length: 800002\r\n\r\n", [*fast, b"{}"], pause=0.05)
        finally:
            bodies._GRACE = before


LARGE = {
    "nested lists": b'{"name": "x", "a": [' + b"[]," * 700_000 + b"[]]}",
    "objects": b'{"tasks": [' + b"{}," * 700_000 + b"{}]}",
    "numbers": b'{"tasks": [' + b"1," * 8_000_001 + b"1]}",
}


@pytest.mark.parametrize("content", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("path", [SESSIONS, "/api/v1/labels", "/label-studio/webhook", "/label-studio/predict"])
def test_large_json_is_refused_before_it_is_parsed(path: str, content: bytes, tmp_path: Path) -> None:
    blob("red")[0].save(tmp_path / "a.png")
    with client(folder=tmp_path) as http:
        begin = time.process_time()
        refused(http.post(path, content=content, headers={"Content-Type": "application/json"}), 413, "the ")
        assert time.process_time() - begin < 2


def test_others_are_answered_while_json_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsing, go = threading.Event(), threading.Event()

    def slow(content: bytes) -> Any:
        parsing.set()
        assert go.wait(PATIENCE)
        return json.loads(content)

    monkeypatch.setattr(bodies, "json", SimpleNamespace(loads=slow))
    with listening(app()) as address, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(raw, address, POST + "Content-Length: 2\r\n\r\n", [b"{}"])
        assert parsing.wait(PATIENCE)
        assert health(address) == 200
        go.set()
        assert b" 201 " in answer.result()


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")


@pytest.mark.parametrize("with_page", [True, False])
def test_other_methods_are_refused_with_those_that_are_possible(with_page: bool, tmp_path: Path) -> None:
    blob("red")[0].save(tmp_path / "a.png")
    served = app(folder=tmp_path if with_page else None)
    possible = {path: sorted(m.upper() for m in methods) for path, methods in served.openapi()["paths"].items()}
    with TestClient(served, base_url="http://localhost") as http:
        for template, methods in possible.items():
            path = re.sub("{label}", "1", re.sub("{(?!label)[a-z_]+}", "x", template))
            for method in set(METHODS) - set(methods):
                answer = http.request(method, path)
                assert answer.status_code == 405, (method, path)
                assert answer.headers["allow"].split(", ") == methods, (method, path)
        for path in ("/api/v1/nothing", "/label-studio/nothing"):
            refused(http.post(path), 404, "there is nothing at")
        page = http.post("/")
        assert (page.status_code, page.headers.get("allow")) == ((405, "GET, HEAD") if with_page else (404, None))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_said(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = blob("red")
    image.save(tmp_path / "a.png")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path))

    with client(folder=tmp_path) as http:
        label = http.post("/api/v1/labels", json={"name": "disc"}).json()["id"]
        picture = http.get("/api/v1/project").json()["pictures"][0]["id"]
        path = f"/api/v1/pictures/{picture}/annotations/{label}"
        assert http.put(path, content=png(mask)).status_code == 200
        monkeypatch.setattr(os, "replace", fail)
        monkeypatch.setattr(tempfile, "mkdtemp", fail)
        for answer in (
            http.put(path, content=png(255 - mask)),
            http.post("/api/v1/labels", json={"name": "more"}),
            http.post("/api/v1/export", json={"formats": ["png"], "which": "all"}),
            http.get("/api/v1/export.zip"),
        ):
            refused(answer, 500, f"the server cannot write ({os.strerror(number)})")
            assert str(tmp_path) not in answer.text


def test_a_text_where_a_file_belongs_is_named() -> None:
    path = ask().post(SESSIONS).json()["id"]
    answer = ask().post(f"{SESSIONS}/{path}/shots", data={"label": "x", "image": "A" * 2_000_000}, files={"mask": b"x"})
    refused(answer, 400, "send images and masks as files")


def test_websockets_are_refused() -> None:
    head = "GET /health HTTP/1.1\r\nHost: {place}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    with listening(app()) as address:
        assert b" 404 " in raw(address, head.replace("/health", "/ws") + key, [])
    with pytest.raises(WebSocketDisconnect), ask().websocket_connect("/ws"):
        pass


def test_the_queue_is_bounded_and_tells_when_to_come_again() -> None:
    async def scenario() -> None:
        queue, go = RequestQueue(Limits(running=2, waiting=1)), threading.Event()
        tasks = [asyncio.create_task(queue.run(go.wait, 10)) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError) as full:
            await queue.run(lambda: 1)
        assert full.value.status_code == 503
        assert full.value.headers
        assert int(full.value.headers["Retry-After"]) >= 1
        go.set()
        assert await asyncio.gather(*tasks) == [True, True, True]
        assert await queue.run(lambda: 1) == 1
        assert queue.busy == 0

    asyncio.run(scenario())


def test_what_takes_too_long_is_answered_and_keeps_its_place() -> None:
    async def scenario() -> None:
        queue, go = RequestQueue(Limits(running=1, waiting=1, seconds=0.1)), threading.Event()
        with pytest.raises(ApiError, match=r"no answer within 0\.1 s"):
            await queue.run(go.wait, 10)
        assert queue.busy == 1  # still running: nothing else runs meanwhile
        with pytest.raises(ApiError, match="no answer within"):
            await queue.run(lambda: 1)  # waited behind it, and does not run any more
        assert queue.busy == 1
        go.set()
        while queue.busy:
            await asyncio.sleep(0.01)

        def late() -> None:
            raise TimeoutError("its own")

        with pytest.raises(TimeoutError, match="its own"):
            await queue.run(late)

    asyncio.run(scenario())


def test_failures_are_one_line_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    served = app()

    @served.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    answer = TestClient(served, base_url="http://localhost").get("/broken")
    assert answer.status_code == 500
    assert list(answer.json()) == ["error"]
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text


def test_limits_that_let_nothing_through_are_refused() -> None:
    with pytest.raises(InvalidOption, match="limit request-mb is 0"):
        Limits(request_mb=0)
    with pytest.raises(InvalidOption, match="limit seconds is nan"):
        Limits(seconds=float("nan"))
