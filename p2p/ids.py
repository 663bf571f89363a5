"""Who and where: `PeerId`, node ids, and `PeerEndpoint` with its text forms.

A peer id is the identity itself, a node id is only a label that people read. Nothing here resolves names or opens
sockets.
"""

from __future__ import annotations

import ipaddress
import string
from dataclasses import field
from typing import Final, Self

from p2p.errors import ConfigError
from p2p.values import frozen

# What a text may hold, and not patterns: to compile five of them was 1 % of what is ours in the import of a node. A
# text that `strip` leaves nothing of holds nothing else.
_HEX: Final = "0123456789abcdef"
_HOST_CHARACTERS: Final = string.ascii_letters + string.digits + "_-"
_LABEL_CHARACTERS: Final = _HOST_CHARACTERS + "."
_OCTETS: Final = frozenset(map(str, range(256)))
_SCHEMES: Final = ("tcp", "ws", "wss", "mem", "relay")

RELAY: Final = "relay"
"""The scheme of a peer that is reached through another one: `relay://RELAY/TARGET`."""

ANY_RELAY: Final = "*"
"""The RELAY of a peer that is reached over whichever relay leads there."""


class PeerId(bytes):
    """An Ed25519 public key: 32 bytes, shown as 64 lower-case hex digits. The only address that is trusted.

    It is a `bytes` so that keys taken from the wire and peer ids compare, hash and sort alike.

    Raises:
        ConfigError: the value has not 32 bytes.
    """

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        if len(value) != 32:
            raise ConfigError(f"a peer id has 32 bytes, not {len(value)}: its text is read by PeerId.parse")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Read 64 hex digits.

        Raises:
            ConfigError: the text is anything else.
        """
        if not is_peer_id_text(text):
            raise ConfigError(f"a peer id is 64 lower-case hex digits, not {text!r}")
        return cls(bytes.fromhex(text))

    @property
    def short(self) -> str:
        """The first 8 hex digits, for logs and tables; not unique, never compare it."""
        return self[:4].hex()

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"PeerId({self.hex()})"


def is_peer_id_text(text: str) -> bool:
    """Whether the text has the form of a peer id (64 lower-case hex digits)."""
    return len(text) == 64 and not text.strip(_HEX)


def is_node_id(text: str) -> bool:
    """Whether the text may be a node id: 1-64 of `A-Z a-z 0-9 . _ -`, and not 64 hex digits (in either case)."""
    return 1 <= len(text) <= 64 and not text.strip(_LABEL_CHARACTERS) and not is_peer_id_text(text.lower())


def check_node_id(text: str) -> str:
    """Return the text if it may be a node id.

    Raises:
        ConfigError: it may not; the message tells the rule.
    """
    if not is_node_id(text):
        raise ConfigError(f"a node id is 1-64 of A-Z a-z 0-9 . _ - and does not look like a peer id; got {text[:80]!r}")
    return text


@frozen
class PeerEndpoint:
    """Where a node listens, and optionally who is expected there.

    One place has one spelling: addresses and names are held in their usual form (`usual_host`), however they came.

    Args:
        host: an IP address or a host name; IPv6 without brackets. With "relay": the relay's peer id or node id,
            or "*" for whichever leads there.
        port: 1-65535 (0 only for "any free port" when listening). With "relay": 0, there is none.
        scheme: "tcp", "ws", "wss", "relay", or "mem" for the in-memory network of tests.
        expect: a peer id (64 hex digits) or a node id that the other side must prove or show; None takes any. With
            "relay" it is the target, and cannot be left out.
        judged: addresses that the host was found to have and that may be dialled: no other one is, and nobody asks
            again where the name leads. Empty for any. No part of what the endpoint is: it compares without.

    Raises:
        ConfigError: a part is not usable.
    """

    host: str
    port: int
    scheme: str
    expect: str | None
    judged: tuple[str, ...] = field(compare=False, repr=False)

    def __init__(
        self, host: str, port: int, scheme: str = "tcp", expect: str | None = None, judged: tuple[str, ...] = ()
    ) -> None:
        # Written out, for every connection and every datagram has one.
        set_field = object.__setattr__
        set_field(self, "host", host)
        set_field(self, "port", port)
        set_field(self, "scheme", scheme)
        set_field(self, "expect", expect)
        set_field(self, "judged", judged)
        self._check()

    def _check(self) -> None:
        if self._is_plain:
            return
        given: tuple[object, ...] = (self.scheme, self.host, "" if self.expect is None else self.expect)
        if not all(isinstance(part, str) for part in given) or type(self.port) is not int:
            raise ConfigError("an endpoint's host is text, its port a whole number, and whom it expects text or None")
        if self.scheme not in _SCHEMES:
            raise ConfigError(f"unknown scheme {self.scheme!r}: use one of tcp, ws, wss, relay")
        if self.scheme == RELAY:
            _check_relayed(self)
            return
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is not within 0-65535")
        host = usual_host(self.host)
        if host is None:
            raise ConfigError(f"{self.host[:80]!r} is neither an IP address nor a host name")
        if host != self.host and self.scheme != "mem":
            object.__setattr__(self, "host", host)
        judged: tuple[object, ...] = self.judged
        if not all(isinstance(address, str) and is_address(address) for address in judged):
            raise ConfigError(f"judged is for addresses: {self.judged!r} holds something else")
        if self.expect is not None and not is_who(self.expect):
            raise ConfigError(f"{self.expect[:80]!r} is neither a peer id nor a node id")

    @property
    def _is_plain(self) -> bool:
        """Whether it is an IPv4 address and a port, as every connection has one: what follows would find no fault."""
        return (
            self.scheme == "tcp"
            and self.expect is None
            and not self.judged
            and type(self.port) is int
            and 0 <= self.port <= 65535
            and type(self.host) is str
            and is_ipv4(self.host)
        )

    @classmethod
    def parse(cls, text: str) -> PeerEndpoint:
        """Read `HOST:PORT`, `tcp://HOST:PORT`, `tcp://[::1]:PORT` or `tcp://WHO@HOST:PORT`.

        WHO is the peer id or node id expected there. `ws://` and `wss://` are read alike. `relay://RELAY/TARGET` names
        a peer behind another one, both by peer id or node id; `relay://*/TARGET` one that some relay leads to.

        Raises:
            ConfigError: the text has another form; the message quotes it.
        """
        given: object = text
        if not isinstance(given, str):
            raise ConfigError(f"an endpoint is parsed from text, and not from {type(given).__name__}")
        scheme, mark, rest = text.strip().partition("://")
        if not mark:
            scheme, rest = "tcp", text.strip()
        if scheme == RELAY:
            relay, slash, target = rest.partition("/")
            if not slash:
                raise ConfigError(f"{text[:200]!r} is not an endpoint: write relay://RELAY/TARGET")
            return cls(relay, 0, RELAY, target)
        who, at, address = rest.rpartition("@")
        if address.startswith("["):
            host, bracket, port_text = address[1:].partition("]")
            well_formed = bracket == "]" and port_text.startswith(":")
            port_text = port_text[1:]
        else:
            host, colon, port_text = address.rpartition(":")
            well_formed = colon == ":" and ":" not in host
        if not well_formed or not (port_text.isascii() and port_text.isdigit()) or len(port_text) > 5:
            raise ConfigError(f"{text[:120]!r} is not an endpoint: {_how_to_write(scheme if mark else '', address)}")
        return cls(host, int(port_text), scheme, who if at else None)

    def __str__(self) -> str:
        if self.scheme == RELAY:
            return f"{RELAY}://{self.host}/{self.expect}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        who = f"{self.expect}@" if self.expect is not None else ""
        return f"{self.scheme}://{who}{host}:{self.port}"

    @property
    def is_dialable(self) -> bool:
        """Whether it says where to go: a port, or a relay."""
        return self.port != 0 or self.scheme == RELAY

    @property
    def address(self) -> tuple[str, str, int]:
        """What identifies the place (scheme, host, port), whoever is expected there; behind a relay it is the peer."""
        if self.scheme == RELAY:
            return (self.scheme, f"{self.host}/{self.expect}", 0)
        return (self.scheme, self.host, self.port)


def is_who(text: str) -> bool:
    """Whether the text may name a peer: by its peer id or by a node id."""
    return is_peer_id_text(text) or is_node_id(text)


def how_to_name(text: str, otherwise: str) -> str:
    """What to do about a name: one that is a peer id but for its capitals has to be written without them."""
    is_in_capitals = is_peer_id_text(text.lower()) and not is_peer_id_text(text)
    return f"a peer id is written in lower case: {text.lower()}" if is_in_capitals else otherwise


def _how_to_write(scheme: str, address: str) -> str:
    if scheme not in ("ws", "wss"):
        return "write HOST:PORT, tcp://HOST:PORT or tcp://[::1]:PORT"
    no_path = ", without a path" if "/" in address else ""
    return f"write {scheme}://HOST:PORT{no_path}; behind a proxy PORT is usually {443 if scheme == 'wss' else 80}"


def _check_relayed(endpoint: PeerEndpoint) -> None:
    if endpoint.port != 0:
        raise ConfigError(f"relay:// has no port, not {endpoint.port}: write relay://RELAY/TARGET")
    for role, who in (("relay", endpoint.host), ("target", endpoint.expect or "")):
        if not is_who(who) and (role, who) != ("relay", ANY_RELAY):
            raise ConfigError(f"{who[:80]!r} is neither a peer id nor a node id: write relay://RELAY/TARGET ({role})")
    if endpoint.host == endpoint.expect:
        raise ConfigError(f"{endpoint.host} cannot be reached through itself: write relay://RELAY/TARGET")


def is_ipv4(host: str) -> bool:
    """Whether the host is an IPv4 address in its canonical form, which needs no resolver."""
    octets = host.split(".")
    return len(octets) == 4 and _OCTETS.issuperset(octets)


def is_address(host: str) -> bool:
    """Whether the host is an IP address, and so needs no resolver."""
    if is_ipv4(host):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_host_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(
        1 <= len(label) <= 63 and label[0] != "-" and not label.strip(_HOST_CHARACTERS) for label in labels
    )


def usual_host(host: str) -> str | None:
    """An address or a host name in its usual form, None for what is neither.

    IPv6 is shortened as RFC 5952 has it, and is the IPv4 address that it holds if it is one (`::ffff:a.b.c.d`); names
    are in lower case.
    """
    if not host.isascii():  # the scope of an IPv6 address may be any text
        return None
    if is_ipv4(host):  # every connection has one, and the module below takes ten times as long
        return host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() if _is_host_name(host) else None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def is_loopback(host: str) -> bool:
    """Whether the host is a loopback address or the name localhost. Never resolves anything."""
    if is_ipv4(host):
        return host.startswith("127.")
    usual = usual_host(host)
    try:
        return ipaddress.ip_address(usual or "").is_loopback
    except ValueError:
        return usual == "localhost"
