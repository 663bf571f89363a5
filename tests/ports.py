"""Ports for those who must name one: another program, or a node that is to come back where it was."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Final

_NAMED: Final = range(10_000, 32_768)
_GIVEN: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WORKERS: Final = 16


def free_port(host: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that was free a moment ago.

    The kernel gives it to nobody who asks for any, and each process that tests run in names others: no test that runs
    at the same time gets it before it is used.
    """
    low, high = map(int, _GIVEN.read_text().split()) if _GIVEN.exists() else (32_768, 60_999)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = [port for port in _NAMED if not low <= port <= high] or [*_NAMED]
    ports = ports[worker % _WORKERS :: _WORKERS]
    while True:
        port = secrets.choice(ports)
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
