"""Who may ask, from where, and how much: what stands before every route."""

from __future__ import annotations

import asyncio
import base64
import functools
import http.client
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from fewseg.core.errors import InvalidOption
from fewseg.server.api_errors import ApiError
from fewseg.server.limits import Limits
from fewseg.server.queue import RequestQueue
from helpers.server import SESSIONS, app, client, listening

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


def raw(address: str, head: str, parts: list[bytes], pause: float = 0.0) -> bytes:
    """What the server says to a request sent by hand; it may hang up while we are sending."""
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
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


def test_large_and_slow_requests_end_while_they_arrive() -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with listening(app(limits=Limits(request_mb=1, seconds=0.6))) as address:
        announced = raw(address, POST + "Content-Length: 2000000\r\n\r\n", [])
        assert b" 413 " in announced
        assert b"more than 1 MB" in announced
        streamed = raw(address, POST + "Transfer-Encoding: chunked\r\n\r\n", [chunk] * 40)
        assert b" 413 " in streamed
        start = time.monotonic()
        slow = raw(address, POST + "Content-Length: 50\r\n\r\n", [b" "] * 10, pause=0.1)
        assert b" 408 " in slow
        assert time.monotonic() - start < 10
        assert b" 400 " in raw(address, POST + "Content-Length: x\r\n\r\n", [])
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
        connection.request("GET", INFO)
        assert connection.getresponse().status == 200


def test_uploads_at_the_same_time_are_bounded() -> None:
    with listening(app(limits=Limits(uploads=1, seconds=20))) as address:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port)) as slow:
            slow.sendall((POST.format(place=place.netloc) + "Content-Length: 20\r\n\r\n").encode() + b" ")
            end = time.monotonic() + 10
            answer = b""
            while b" 503 " not in answer and time.monotonic() < end:  # until the slow one has arrived in part
                answer = raw(address, POST + "Content-Length: 2\r\n\r\n", [b"{}"])
            assert b" 503 " in answer
            assert b"retry-after: 1" in answer.lower()


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
