"""Several hosts on one machine: network namespaces, joined by a bridge that lives in a namespace of its own.

Nothing of the machine's own network is touched, and everything goes with the namespaces.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns import participant
from tests.netns.inside import Inside, inside
from tests.programs import find_program


class Lan:
    """A switch and what is plugged into it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ip = find_program("ip") or "ip"
        self._hosts: list[str] = []
        self._namespaces: list[str] = []

    def ip(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True, text=True)

    def of(self, host: str) -> str:
        return f"{self._name}-{host}"

    def _namespace(self, host: str) -> str:
        self.ip("netns", "add", self.of(host))
        self._namespaces.append(self.of(host))
        return self.of(host)

    def switch(self) -> None:
        switch = self._namespace("switch")
        self.ip("-n", switch, "link", "add", "name", "br0", "type", "bridge")
        self.ip("-n", switch, "link", "set", "dev", "br0", "up")

    def host(self, host: str, *, ipv4: bool = True, ipv6: bool = True, is_up: bool = True, elsewhere: int = 0) -> None:
        """Plug one more host in, with an address each of IPv4 and of IPv6's link-local ones.

        Args:
            elsewhere: how many pairs of other interfaces it has, which come first and lead to each other.
        """
        there, number = self._namespace(host), len(self._hosts) + 1
        for other in range(elsewhere):
            one, two = f"one{other}", f"two{other}"
            self.ip("-n", there, "link", "add", "name", one, "type", "veth", "peer", "name", two)
            for side in (one, two):
                self.ip("-n", there, "link", "set", "dev", side, "up")
        self._hosts.append(host)
        switch, port = self.of("switch"), f"port-{host}"
        self.ip("-n", switch, "link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", there)
        self.ip("-n", switch, "link", "set", "dev", port, "master", "br0", "up")
        self.ip("-n", there, "link", "set", "dev", "lo", "up")
        if ipv4:
            self.ip("-n", there, "address", "add", f"10.77.0.{number}/24", "broadcast", "10.77.0.255", "dev", "eth0")
        if not ipv6:
            self.ip("-n", there, "link", "set", "dev", "eth0", "addrgenmode", "none")
        if is_up:
            self.set_link(host, "up")

    def add_address(self, host: str, address: str) -> None:
        """One more address, in use at once."""
        self.ip("-n", self.of(host), "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))

    def set_link(self, host: str, state: str) -> None:
        self.ip("-n", self.of(host), "link", "set", "dev", "eth0", state)

    @contextlib.contextmanager
    def participant(self, host: str, **settings: Any) -> Iterator[Inside]:
        """A process on that host that runs `participant.py`, and prints a JSON line at each change."""
        with inside(self.of(host), participant.run, settings) as process:
            yield process

    def remove(self) -> None:
        for namespace in self._namespaces:
            subprocess.run([self._ip, "netns", "delete", namespace], check=False, capture_output=True)


@functools.cache
def why_not() -> str | None:
    """Why this machine does not let a test make hosts; None if it does."""
    ip = find_program("ip")
    if ip is None:
        return "not installed: iproute2 (Debian package)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"p2p-try-{os.getpid()}"
    tried = subprocess.run([ip, "netns", "add", name], check=False, capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    made = subprocess.run(
        [ip, "-n", name, "link", "add", "name", "br0", "type", "bridge"], check=False, capture_output=True, text=True
    )
    subprocess.run([ip, "netns", "delete", name], check=False, capture_output=True)
    return f"no bridges here: {made.stderr.strip()}" if made.returncode else None


@contextlib.contextmanager
def lan() -> Iterator[Lan]:
    """A LAN without hosts, or a skipped test."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    made = Lan(f"p2p{os.getpid()}")
    try:
        made.switch()
        yield made
    finally:
        made.remove()
