"""Two sessions joined in memory: the fixture of most tests here.

Time stands still unless a test moves it, and all randomness comes from a counter, so every run gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

from p2p.crypto.identity import Identity
from p2p.crypto.noise import NoiseStatic
from p2p.limits import Limits
from p2p.session.session import Event, Live, PeerProven, Role, Session, SessionConfig, State

CAPABILITIES = (("bundle", "1"), ("cipher", "aes256gcm,chacha20poly1305"))
NETWORK_KEY = bytes(range(50, 82))
WALL_MS = 1_790_000_000_000
DATA = 259


def entropy(seed: str) -> Callable[[int], bytes]:
    """A source of bytes that look random and are the same for the same seed."""
    count = 0

    def take(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(size)

    return take


def config(name: str = "a", **changes: object) -> SessionConfig:
    """The configuration of a node of that name; `limits_*` changes a bound."""
    bounds = {key.removeprefix("limits_"): changes.pop(key) for key in list(changes) if key.startswith("limits_")}
    source = entropy(f"node {name}")
    made = SessionConfig(
        node_id=name,
        identity=Identity.generate(source),
        static=NoiseStatic.generate(source),
        network_key=None,
        network_name="",
        capabilities=CAPABILITIES,
        limits=dataclasses.replace(Limits(), **bounds),
    )
    return dataclasses.replace(made, **changes)


def start(
    a: SessionConfig | None = None, b: SessionConfig | None = None, *, now: float = 0.0, seed: str = ""
) -> tuple[Session, Session]:
    """An initiator and a responder that have not exchanged anything yet."""
    return (
        Session(a or config("a"), Role.INITIATOR, entropy=entropy(f"i{seed}"), now=now, wall_ms=WALL_MS),
        Session(b or config("b"), Role.RESPONDER, entropy=entropy(f"r{seed}"), now=now, wall_ms=WALL_MS),
    )


def drain(session: Session, *, accept: bool = True) -> list[Event]:
    """All events there are; whoever is proven is let in unless told otherwise."""
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
        if accept and isinstance(event, PeerProven):
            session.accept()
    return events


def deliver(sender: Session, receiver: Session, *, now: float = 0.0, accept: bool = True) -> list[Event]:
    """Move what waits at the sender; return what the receiver makes of it."""
    data = sender.data_to_send()
    if data:
        receiver.receive_data(data, now)
    return drain(receiver, accept=accept)


def pump(a: Session, b: Session, *, now: float = 0.0) -> tuple[list[Event], list[Event]]:
    """Move bytes both ways until nothing waits; return the events of both."""
    of_a: list[Event] = drain(a)
    of_b: list[Event] = drain(b)
    while True:
        to_b, to_a = a.data_to_send(), b.data_to_send()
        if not to_b and not to_a:
            return of_a, of_b
        if to_b:
            b.receive_data(to_b, now)
        of_b += drain(b)
        if to_a:
            a.receive_data(to_a, now)
        of_a += drain(a)


def live(
    a: SessionConfig | None = None, b: SessionConfig | None = None, *, now: float = 0.0
) -> tuple[Session, Session]:
    """Two sessions that are live on both sides, with nothing under way."""
    i, r = start(a, b, now=now)
    pump(i, r, now=now)
    # The initiator learns that it is welcome by the first thing that the responder says.
    r.send(DATA, EMPTY_DATA)
    assert any(isinstance(event, Live) for event in deliver(r, i, now=now))
    assert i.state is r.state is State.LIVE
    return i, r


EMPTY_DATA = b"\x00" + bytes(9) + b"\x00"
