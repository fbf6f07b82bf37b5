"""`fewseg serve`: the page to paint and correct, the HTTP API and the back ends of labelling tools."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import sys
import threading
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from fewseg.cli.options import LogOptions, ModelOptions
from fewseg.core.errors import InvalidImage, InvalidOption
from fewseg.server.limits import Limits
from fewseg.server.listen import address_of, is_local, listening, seen_by_others

if TYPE_CHECKING:
    import uvicorn

TOKEN_VARIABLE: Final = "FEWSEG_TOKEN"
"""Environment variable that holds the token, where it should not stand in a list of processes."""
_NEEDED: Final = ("fastapi", "uvicorn", "python_multipart")


@dataclass(frozen=True)
class _Positional:
    """What is given without an option's name."""

    folder: Path | None = None
    """The images to label."""


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions, LogOptions, _Positional):
    """Label a folder of images on a page, and serve the HTTP API.

    Prints the address of the page. What is painted is saved beside the images at once; stop with Ctrl-C. Without a
    folder there is only the API (/api/v1/openapi.json) and the back end for Label Studio (/label-studio).
    """

    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 is every one that this machine has, reachable by others."""
    port: int = 8000
    """The port to listen at; 0 takes a free one."""
    token: str | None = None
    """What clients must bring. `auto` makes one up, as does listening where others can reach it; environment variable
    FEWSEG_TOKEN gives one, too."""
    allow_host: tuple[str, ...] = ()
    """Names of this machine that clients use, beside localhost and IP addresses."""
    open: bool = False
    """Open the page in the browser."""
    label_studio_url: str | None = None
    """Label Studio's own address, e.g. http://localhost:8080, to get tasks' images from."""
    label_studio_folder: Path | None = None
    """Where to keep what Label Studio's annotations taught, for the next start; in memory only if not given."""
    image_hosts: tuple[str, ...] = ()
    """Further hosts that images of labelling tasks may be fetched from, e.g. images.example.org:443."""
    adapt: Literal["auto", "off"] = "auto"
    """Fit labels of the page and of Label Studio to their own examples, in the background: auto where there are 5 or
    more and the fit predicts examples better that it has not seen. The API's sessions ask for it."""
    limits: Limits = field(default_factory=Limits)
    """How much clients get."""


def run(options: Options) -> int:
    """Serve until Ctrl-C; 0."""
    from fewseg.cli.common import log_to_terminal

    log_to_terminal(options.verbose, "%(levelname)s: %(message)s")
    _require_extra()
    if options.folder is not None and not options.folder.is_dir():
        raise InvalidImage(f"{options.folder} is not a folder: give the folder with the images to label")
    token = _token(options)
    with listening(options.host, options.port) as listener:  # before the model is loaded: a busy port shows at once
        server = _server(_app(options, token), options)
        address = address_of(options.host, listener.getsockname()[1])
        page = f"{address}/?token={token}" if token else f"{address}/"
        _announce(options, address, page, token)
        if options.open:
            _open_when_ready(server, page)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    if not server.started:
        raise InvalidOption("the server did not start; run again with --verbose for the reason")
    print("fewseg: stopped", file=sys.stderr)
    return 0


def _require_extra() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidOption(f"fewseg serve needs {', '.join(missing)}: pip install 'fewseg[serve]'")


def _token(options: Options) -> str | None:
    """The token to ask for; one is made up where other machines can reach the server."""
    token = options.token or os.environ.get(TOKEN_VARIABLE)
    if token is None and is_local(options.host):
        return None
    if token is None or token == "auto":
        return secrets.token_urlsafe(18)
    if not (token.isascii() and token.isprintable() and len(token) >= 8 and " " not in token and ";" not in token):
        raise InvalidOption("the token has fewer than 8 characters, or others than ASCII letters, digits and - . _ ~")
    return token


def _app(options: Options, token: str | None) -> Any:
    from fewseg.cli.common import make_segmenter
    from fewseg.server.app import create_app
    from fewseg.server.label_studio.task_images import ImageSources

    key = os.environ.get("LABEL_STUDIO_API_KEY")
    return create_app(
        make_segmenter(options),
        folder=options.folder,
        token=token,
        limits=options.limits,
        names=[*options.allow_host, options.host, socket.gethostname()],
        sources=ImageSources(options.label_studio_url, options.image_hosts, key),
        label_studio_folder=options.label_studio_folder,
        adapt=options.adapt == "auto",
    )


def _server(app: Any, options: Options) -> uvicorn.Server:
    import uvicorn

    from fewseg.server.connections import server_config

    class Server(uvicorn.Server):
        """Ends the streams of open pages when it is stopped, instead of waiting for them."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.end_streams()
            await super().shutdown(sockets)

    config = server_config(
        app,
        options.limits,
        log_level="info" if options.verbose else "warning",
        access_log=options.verbose,
        timeout_graceful_shutdown=3,  # for answers on their way
    )
    return Server(config)


def _announce(options: Options, address: str, page: str, token: str | None) -> None:
    what = f"label {options.folder} at" if options.folder is not None else "API at"
    print(f"fewseg: {what} {page}", flush=True)
    print(f"  API: {address}/api/v1 (OpenAPI: /api/v1/openapi.json)  Label Studio: {address}/label-studio", flush=True)
    if not is_local(options.host):
        elsewhere = address_of(seen_by_others(options.host), int(address.rpartition(":")[2]))
        print(f"  from other machines: {elsewhere}{page.removeprefix(address)}", flush=True)
    if token:
        print(f"  token: {token} (Authorization: Bearer TOKEN)", flush=True)
    print("  stop with Ctrl-C", flush=True)


def _open_when_ready(server: uvicorn.Server, page: str) -> None:
    def wait() -> None:
        pause = threading.Event()
        while not server.started and not server.should_exit:
            pause.wait(0.05)
        if server.started:
            webbrowser.open(page)

    threading.Thread(target=wait, name="fewseg-open", daemon=True).start()
