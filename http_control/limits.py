"""Every bound of the HTTP side, in one value; those of the node are `p2p.Limits`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

from http_control.kinds import check_kind
from p2p import ConfigError

KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one HTTP server and of the routes it serves. Times in seconds, sizes in bytes."""

    # One connection (threat T54).
    connections_max: int = 512
    """With all of them taken, one that is closing or idle gives way, or one that does not read; if there is none, the
    new one does."""
    connections_per_source_max: int = 128
    """Of one address, or one /56 of IPv6. This machine itself may have them all: a proxy on it is everybody."""
    give_way_s: float = 1.0
    """A client whose request's body, or whose taking of our answer, lasts so long gives way where places are short."""
    header_bytes_max: int = 16 * KIB
    header_s_max: float = 10.0
    """From the connection's start, or from the end of the answer before, to the whole header."""
    tls_s_max: float = 5.0
    body_bytes_max: int = 64 * KIB
    body_s_max: float = 10.0
    """For the whole body and not per read."""
    continue_after_s: float = 0.05
    """So long an answer that needs no body may come first, before a client that waits for it is told to send its body
    (`Expect: 100-continue`)."""
    requests_per_connection_max: int = 1000
    write_bytes: int = 64 * KIB
    write_stall_s_max: float = 10.0
    """A reader that does not take `write_bytes` within this is cut off."""
    linger_s_max: float = 1.0
    """After our end of the connection is closed, what still comes is read and dropped for so long: closing with unread
    data would reset the connection and could take our answer with it. And a client that has closed its end gets an
    answer that comes within this."""
    close_s_max: float = 0.3
    backlog: int = 128
    accept_pause_s: float = 0.1
    """Out of descriptors or memory: so long until the next accept."""
    descriptors_reserved: int = 64
    """So many, and a quarter at the most of all that the process may have, are left to the links and the store of the
    node, however many connections HTTP may have."""
    shortage_told_s: float = 60.0
    """Between two warnings that connections are not accepted."""

    # The server.
    startup_s_max: float = 10.0
    starts_max: int = 10
    """Times in a row that an application that ran is tried to be started again, before it is given up: with the pauses
    below about 40 s. The very first start is tried once."""
    stop_grace_s: float = 0.5
    """What requests under way are given when the server stops."""
    stop_s_max: float = 1.5
    """The whole of stopping, whatever the clients do."""
    restart_s: tuple[float, ...] = (0.1, 0.5, 2.0, 5.0)
    """Pauses before a failed server is started again; the last one repeats."""
    calm_s: float = 60.0
    """After so long without a failure the next one counts as the first."""

    # Routes.
    bugs_told_per_min: int = 10
    """Lines about bugs of ours or of the application: a request can provoke one as often as it is sent."""
    hook_s_max: float = 10.0
    """The application's admin hook, and its rule of who may."""
    samples_max: int = 600
    log_lines_max: int = 800
    """Lines that are kept, each of 2 KiB at the most (threat T58)."""
    events_max: int = 512
    """Events that are kept for readers that come back."""
    heads_every_s: float = 0.25
    """Between two `heads_moved` events: a busy log commits hundreds of times a second."""
    heads_per_event_max: int = 64
    """Heads in one of them: events are kept, and there may be a thousand origins."""
    away_per_tick_max: int = 64
    """Peers that are not connected in a `peers` event; `GET peers` has them all."""
    metrics_peers_max: int = 32
    """Peers that get a series of their own in /metrics: those furthest behind."""

    # Streams.
    readers_max: int = 256
    reader_bytes_max: int = 1024 * KIB
    """Queued for a reader that does not keep up; beyond it the reader is dropped."""
    heartbeat_s: float = 15.0

    # Who may (threat T53).
    failures_per_s: int = 5
    """Wrong tokens, or refusals by the application's rule, of one source (an IPv6 /56 is one); with more, that source
    is not listened to until the second is over."""
    failure_sources_max: int = 4_096

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            bounds = value if isinstance(value, tuple) else (value,)
            if isinstance(value, tuple) != (each.type == "tuple[float, ...]") or not bounds:
                raise ConfigError(f"HttpLimits.{each.name} is {value!r}: it must be {_KINDS[str(each.type)][1]}")
            for bound in bounds:
                allowed, what = _KINDS[str(each.type)]
                check_kind(bound, allowed, f"HttpLimits.{each.name}", what)
                # Not `bound < 0`, which is false of what is no number (NaN).
                if not (bound > 0 or (bound == 0 and each.name in _MAY_BE_ZERO)):
                    raise ConfigError(f"HttpLimits.{each.name} is {value!r}: {_lowest(each.name, bound)}")


def _lowest(name: str, bound: float) -> str:
    if math.isnan(bound):
        return "NaN is no number that anything can be measured by"
    return "a bound is 0 or more" if name in _MAY_BE_ZERO else "with that nothing could be served; it must be above 0"


_MAY_BE_ZERO: Final = frozenset({
    "give_way_s", "body_bytes_max", "continue_after_s", "linger_s_max", "accept_pause_s", "stop_grace_s", "stop_s_max",
    "restart_s", "calm_s", "bugs_told_per_min", "heads_every_s", "heads_per_event_max", "away_per_tick_max",
    "metrics_peers_max", "readers_max", "descriptors_reserved", "shortage_told_s",
})  # fmt: skip
"""What works without: no grace, no pause, none of something that is kept or told beside the rest."""

_KINDS: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "tuple[float, ...]": ((int, float), "a tuple of numbers, and not an empty one"),
}
