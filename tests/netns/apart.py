"""Two hosts that reach only relays: network namespaces, and a wire from each host to each relay and none between them.

No namespace forwards anything. What passes a relay's wires can be kept, frame by frame.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.netns import relay_member
from tests.netns.inside import Inside, inside
from tests.programs import find_program

CAPTURE = """
import socket, sys
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
frames.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
print("ready", flush=True)
with open(sys.argv[1], "wb") as kept:
    while True:
        kept.write(frames.recv(70000))
"""


@functools.cache
def why_not() -> str | None:
    """Why this machine does not let a test make namespaces and wires; None if it does."""
    ip = find_program("ip")
    if ip is None:
        return "not installed: iproute2 (Debian package)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"p2p-wire-{os.getpid()}"
    wire = ("-n", name, "link", "add", "name", "here", "type", "veth", "peer", "name", "there")
    for words in (("netns", "add", name), wire):
        tried = subprocess.run([ip, *words], check=False, capture_output=True, text=True)
        if tried.returncode:
            break
    subprocess.run([ip, "netns", "delete", name], check=False, capture_output=True)
    return f"no namespaces with wires here: {tried.stderr.strip()}" if tried.returncode else None


class Wires:
    """Namespaces by name, and wires between pairs of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ip = find_program("ip") or "ip"
        self._made: list[str] = []
        self._wires = 0

    def ip(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True, text=True)

    def of(self, host: str) -> str:
        return f"{self._name}-{host}"

    def host(self, host: str) -> None:
        self.ip("netns", "add", self.of(host))
        self._made.append(self.of(host))
        self.ip("-n", self.of(host), "link", "set", "dev", "lo", "up")

    def wire(self, host: str, relay: str) -> str:
        """Join two namespaces, and return the address of the second on that wire."""
        self._wires += 1
        number, here, there = self._wires, self.of(host), self.of(relay)
        ends = (f"to-{relay}", f"to-{host}")
        self.ip("-n", here, "link", "add", "name", ends[0], "type", "veth", "peer", "name", ends[1], "netns", there)
        for namespace, end, last in ((here, ends[0], 1), (there, ends[1], 2)):
            self.ip("-n", namespace, "address", "add", f"10.78.{number}.{last}/24", "dev", end)
            self.ip("-n", namespace, "link", "set", "dev", end, "up")
        return f"10.78.{number}.2"

    def reaches(self, host: str, address: str) -> bool:
        """Whether a host knows any way to an address."""
        asked = [self._ip, "-n", self.of(host), "route", "get", address]
        return subprocess.run(asked, check=False, capture_output=True).returncode == 0

    @contextlib.contextmanager
    def member(self, host: str, **settings: Any) -> Iterator[Member]:
        """A node on that host: `relay_member.py`."""
        with inside(self.of(host), relay_member.main, settings) as process:
            yield Member(process)

    @contextlib.contextmanager
    def capture(self, host: str, into: Path) -> Iterator[None]:
        """Keep every frame on the host's wires."""
        command = [self._ip, "netns", "exec", self.of(host), sys.executable, "-I", "-c", CAPTURE, str(into)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == "ready\n"
                yield
                process.send_signal(signal.SIGINT)
            finally:
                process.kill()

    def remove(self) -> None:
        for namespace in self._made:
            subprocess.run([self._ip, "netns", "delete", namespace], check=False, capture_output=True)


class Member:
    """A running `relay_member.py`."""

    def __init__(self, process: Inside) -> None:
        self._process = process

    def until(self, event: str) -> dict[str, Any]:
        """The next line that tells of an event of that name."""
        for line in self._process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told["event"] == event:
                return told
        raise AssertionError(f"the member ended before it told {event}")

    def go_on(self) -> None:
        """Let it do what it waits with."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def freeze(self) -> None:
        """Let it stand still for good: its connections stay, and nothing comes over them."""
        self._process.freeze()

    def kill(self) -> None:
        """End it where it stands."""
        self._process.kill()
