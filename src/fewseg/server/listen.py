"""Listening sockets, and the addresses of the server for its users."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator

from fewseg.core.errors import InvalidOption


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; raises `InvalidOption` where it cannot."""
    if not 0 <= port <= 65535:
        raise InvalidOption(f"port {port}: choose one from 1 to 65535, or 0 for a free one")
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidOption(f"host {host!r}: {error.strerror or error}; give an address of this machine") from error
    with listener:
        if os.name == "posix":  # on other systems it lets two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(where)
            listener.listen(128)
        except OSError as error:
            reason = error.strerror or str(error)
            remedy = "stop what listens there, or choose another with --port (0 takes a free one)"
            raise InvalidOption(f"cannot listen at {host} port {port} ({reason}): {remedy}") from error
        yield listener


def address_of(host: str, port: int) -> str:
    """The server's address for a browser on this machine."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "localhost" if address.version == 4 else "[::1]"
        elif address.version == 6:
            host = f"[{host}]"
    return f"http://{host}:{port}"


def seen_by_others(host: str) -> str:
    """The address of this machine in its network, where the server listens at all of them."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    family, far = (socket.AF_INET, "192.0.2.1") if address.version == 4 else (socket.AF_INET6, "2001:db8::1")
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((far, 9))  # sends nothing: it only selects the network interface
        return str(probe.getsockname()[0])
    return socket.gethostname()


def is_local(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
