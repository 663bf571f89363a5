"""One configuration from three places: flags before environment before file before defaults.

Every place is read into the same `Layer`, so that a key is known, spelled and bounded alike wherever it stands. In the
file and in the environment a flag's dashes are underscores: `--stats-every 500` is `stats_every = 500` in TOML and
`P2P_STATS_EVERY=500` in the environment. Lists are separated by commas or spaces there.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from p2p.errors import ConfigError
from p2p.ids import ANY_RELAY, RELAY, PeerEndpoint, is_node_id, is_peer_id_text
from p2p.limits import Limits
from p2p.text import TRACE

OnOff = Literal["on", "off"]
LogLevel = Literal[
    "trace", "debug", "info", "warn", "warning", "error", "err", "critical", "fatal", "off", "none"
]  # fmt: skip

LEVELS: Final[Mapping[str, int]] = {
    "trace": TRACE,
    "debug": 10,
    "info": 20,
    "warn": 30,
    "warning": 30,
    "error": 40,
    "err": 40,
    "critical": 50,
    "fatal": 50,
    "off": 100,
    "none": 100,
}

DIALLED: Final = ("tcp", "ws", "wss")
NETWORK_BYTES_MAX: Final = Limits().label_bytes_max

PREFIX: Final = "P2P_"
FOREIGN_VARIABLES: Final = frozenset({"P2P_CONFIG", "P2P_NOISE_VECTORS"})
"""Variables with our prefix that are no settings of a node: the file's own path, and what only the tests read."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]
Interval = Annotated[int, msgspec.Meta(ge=100, le=86_400_000)]
Bound = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=2**31)]


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one place says. UNSET: it says nothing of this."""

    id: str | UnsetType = UNSET
    listen: Port | UnsetType = UNSET
    host: str | UnsetType = UNSET
    data_dir: str | UnsetType = UNSET
    memory: bool | UnsetType = UNSET
    connect: tuple[str, ...] | UnsetType = UNSET
    connect_delay: Milliseconds | UnsetType = UNSET
    no_connect: bool | UnsetType = UNSET
    run: Annotated[float, msgspec.Meta(gt=0)] | UnsetType = UNSET
    stats_every: Milliseconds | UnsetType = UNSET
    tui: OnOff | UnsetType = UNSET
    quiet: bool | UnsetType = UNSET
    json: bool | UnsetType = UNSET
    log_level: LogLevel | UnsetType = UNSET
    network_key_file: str | UnsetType = UNSET
    network: str | UnsetType = UNSET
    trust: str | UnsetType = UNSET
    open: bool | UnsetType = UNSET
    append_stdin: bool | UnsetType = UNSET
    discovery: OnOff | UnsetType = UNSET
    disc_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | UnsetType = UNSET
    disc_mode: Literal["broadcast", "multicast"] | UnsetType = UNSET
    disc_interval: Interval | UnsetType = UNSET
    bootstrap: OnOff | UnsetType = UNSET
    registry: str | UnsetType = UNSET
    registry_token_file: str | UnsetType = UNSET
    boot_interval: Interval | UnsetType = UNSET
    announce: OnOff | UnsetType = UNSET
    advertise: str | UnsetType = UNSET
    relay: OnOff | UnsetType = UNSET
    relay_circuits: Bound | UnsetType = UNSET
    relay_circuits_per_peer: Bound | UnsetType = UNSET
    relay_circuits_per_pair: Bound | UnsetType = UNSET
    relay_bytes_per_s: Bound | UnsetType = UNSET
    relay_circuit_bytes: Bound | UnsetType = UNSET
    relay_idle: Seconds | UnsetType = UNSET
    via: tuple[str, ...] | UnsetType = UNSET
    expire_after: Seconds | UnsetType = UNSET
    listen_ws: Port | UnsetType = UNSET
    tls_cert: str | UnsetType = UNSET
    tls_key: str | UnsetType = UNSET
    tls_ca: str | UnsetType = UNSET
    http: str | UnsetType = UNSET
    http_unix: str | UnsetType = UNSET
    http_tls_cert: str | UnsetType = UNSET
    http_tls_key: str | UnsetType = UNSET
    http_host: tuple[str, ...] | UnsetType = UNSET
    http_proxy: tuple[str, ...] | UnsetType = UNSET
    http_open: bool | UnsetType = UNSET


KEYS: Final = Layer.__struct_fields__
FINDING: Final = (
    "discovery", "disc_port", "disc_mode", "disc_interval",
    "bootstrap", "registry", "registry_token_file", "boot_interval", "announce", "advertise",
)  # fmt: skip
"""Keys about finding others, near by and at a registry."""
RELAY_LIMITS: Final[Mapping[str, str]] = {
    "relay_circuits": "relay_circuits_max",
    "relay_circuits_per_peer": "relay_circuits_per_peer_max",
    "relay_circuits_per_pair": "relay_circuits_per_pair_max",
    "relay_bytes_per_s": "relay_bytes_per_s",
    "relay_circuit_bytes": "relay_circuit_bytes_max",
    "relay_idle": "relay_idle_s_max",
}
"""Keys that bound a relay, and the fields of `Limits` that they set."""


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node is controlled over HTTP, and by whom it may be reached there.

    Attributes:
        at: `HOST:PORT`, None for the unix socket.
        hosts: more names that the server is known by.
        proxies: whose X-Forwarded-For is believed.
    """

    at: str | None
    unix: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    hosts: tuple[str, ...]
    proxies: tuple[str, ...]
    open: bool


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How one node is run, complete and checked.

    Attributes:
        data_dir: None for a node in memory.
        run: seconds until it stops by itself, None for never.
        stats_every: milliseconds between stats lines, 0 for none.
        finding: what was said with the keys of `FINDING`, for `p2p.cli.finding`.
        limits: the fields of `Limits` that are another than by default.
    """

    id: str
    listen: int
    host: str | None
    data_dir: Path | None
    connect: tuple[PeerEndpoint, ...]
    connect_delay: int
    no_connect: bool
    run: float | None
    stats_every: int
    tui: bool
    quiet: bool
    json: bool
    log_level: int
    network_key_file: Path | None
    network: str
    trust: Path | None
    open: bool
    append_stdin: bool
    finding: Mapping[str, Any]
    relay: bool
    via: tuple[PeerEndpoint, ...]
    limits: Mapping[str, float]
    expire_after: float | None
    listen_ws: int | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_ca: Path | None
    http: HttpSettings | None


class UsageError(Exception):
    """The command line, environment or file asks for something that cannot be; exit 2."""


def from_file(path: Path) -> Layer:
    """Read a TOML file.

    Raises:
        UsageError: it cannot be read, is not TOML, or has a key or value that no flag would take.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    # A relative path in a file means beside that file, wherever the process was started.
    for key in _PATHS:
        # An empty one is refused below, as everywhere.
        if isinstance(values.get(key), str) and values[key]:
            values[key] = str(path.parent / Path(values[key]).expanduser())
    for key, value in values.items():
        if key in ON_OFF and isinstance(value, bool):
            values[key] = "on" if value else "off"
        elif key in SWITCHES and value in ("on", "off"):
            values[key] = value == "on"
    return _convert(values, str(path), strict=True)


def from_environment(environment: Mapping[str, str]) -> Layer:
    """Read the `P2P_*` variables.

    Raises:
        UsageError: a variable has an unknown name or an unusable value.
    """
    values: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(PREFIX) or name in FOREIGN_VARIABLES:
            continue
        key = name.removeprefix(PREFIX).lower()
        values[key] = text.replace(",", " ").split() if key in LISTS else _SWITCH.get(text.lower(), text)
        if key in _SWITCHED_TEXT:
            values[key] = text
    return _convert(values, "environment", strict=False)


def from_flags(values: Mapping[str, Any]) -> Layer:
    """Read what click parsed; None means that the flag was not given.

    Raises:
        UsageError: a value is not usable, or a flag was given twice that takes one.
    """
    given = {key: value for key, value in values.items() if value not in (None, ())}
    registries = given.get("registry")
    if isinstance(registries, tuple):
        if len(registries) > 1:
            raise UsageError(
                f"--registry is given {len(registries)} times: a node asks one; where that is not enough, several"
                " registries behind one name share a table in Redis"
            )
        given["registry"] = registries[0]
    return _convert(given, "", strict=True)


_SWITCH: Final[Mapping[str, bool]] = {"1": True, "on": True, "yes": True, "true": True, "0": False, "off": False,
                                      "no": False, "false": False}  # fmt: skip
SWITCHES: Final = frozenset({"memory", "no_connect", "quiet", "json", "open", "append_stdin", "http_open"})
ON_OFF: Final = frozenset({"tui", "discovery", "bootstrap", "announce", "relay"})
LISTS: Final = frozenset({"connect", "via", "http_host", "http_proxy"})
_PATHS: Final = (
    "data_dir", "network_key_file", "trust", "registry_token_file", "http_unix", "http_tls_cert", "http_tls_key",
    "tls_cert", "tls_key", "tls_ca",
)  # fmt: skip
_SWITCHED_TEXT: Final = frozenset(KEYS) - SWITCHES - LISTS


def _convert(values: dict[str, Any], source: str, *, strict: bool) -> Layer:
    for key, value in values.items():
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, 1)
            hint = f": did you mean {_spelled(close[0], source)}?" if close else ""
            raise UsageError(f"{source}: unknown key {_spelled(key, source)}{hint or _KEYS_ARE}")
        if value == "":
            mend = "give the node a name, such as A" if key == "id" else "leave it out, or give it a value"
            raise UsageError(f"{_assigned(key, value, source)}: it is empty; {mend}")
        if key in _PATHS and "\0" in str(value):
            raise UsageError(f"{_assigned(key, value, source)}: no path has a zero byte")
    try:
        return msgspec.convert(values, Layer, strict=strict)
    except msgspec.ValidationError as error:
        _, _, path = str(error).partition(" - at `$.")
        key, bracket, index = path.rstrip("`]").partition("[")
        value = values[key][int(index)] if bracket else values[key]
        raise UsageError(f"{_assigned(key, value, source, at=f'[{index}]' * bool(bracket))}: {_takes(key)}") from None


_KEYS_ARE: Final = f"; there are {', '.join(KEYS)}"
_MILLISECONDS: Final = "it takes milliseconds, a whole number from 0 to 86400000"
_INTERVAL: Final = "it takes milliseconds, a whole number from 100 to 86400000"
_SECONDS: Final = "it takes seconds, a number above 0"
_COUNT: Final = f"it takes a whole number from 1 to {2**53}"
_NUMBERS: Final[Mapping[str, str]] = {
    "listen": "it takes a port, a whole number from 0 to 65535",
    "listen_ws": "it takes a port, a whole number from 0 to 65535",
    "connect_delay": _MILLISECONDS,
    "stats_every": _MILLISECONDS,
    "disc_interval": _INTERVAL,
    "boot_interval": _INTERVAL,
    "disc_port": "it takes a port, a whole number from 1 to 65535",
    "disc_mode": "it takes broadcast or multicast",
    "run": "it takes seconds, a number above 0",
    "expire_after": _SECONDS,
    "relay_idle": _SECONDS,
    **dict.fromkeys(("relay_circuits", "relay_circuits_per_peer", "relay_circuits_per_pair"), _COUNT),
    **dict.fromkeys(("relay_bytes_per_s", "relay_circuit_bytes"), f"it takes bytes, a whole number from 1 to {2**53}"),
    "connect": 'it takes a list of endpoints, such as ["10.0.0.2:9001"]',
    "via": 'it takes a list of the endpoints of relays, such as ["10.0.0.2:9001"]',
    "http_host": 'it takes a list of host names, such as ["node.example"]',
    "http_proxy": 'it takes a list of addresses or networks, such as ["10.0.0.0/8"]',
}


def _takes(key: str) -> str:
    """What a key takes, for somebody who gave it something else."""
    if key == "log_level":
        return f"it takes one of {', '.join(LEVELS)}"
    if key in SWITCHES:
        return "it takes true or false, or on or off (in the environment also 1 or 0, yes or no)"
    return _NUMBERS.get(key) or ("it takes on or off" if key in ON_OFF else "it takes text")


def _assigned(key: str, value: object, source: str, at: str = "") -> str:
    """A key (and where in its list) and its value as they are written in that place."""
    shown = f"{value}" if isinstance(value, str) and value else repr(value)
    if not source:
        return f"{_spelled(key, source)} {shown}"
    joint = "=" if source == "environment" else " = "
    return f"{source}: {_spelled(key, source)}{at}{joint}{value!r}"


def _spelled(key: str, source: str) -> str:
    if source == "environment":
        return PREFIX + key.upper()
    return key if source else "--" + key.replace("_", "-")


def settle(flags: Layer, environment: Layer, file: Layer, home: Mapping[str, str]) -> Settings:
    """Put the three layers together and check what belongs together.

    Args:
        home: the environment, for the default place of the data (`XDG_STATE_HOME`, `HOME`).

    Raises:
        UsageError: something is missing, or two settings exclude each other.
    """
    merged: dict[str, Any] = {}
    for layer in (file, environment, flags):
        own = {key: value for key in KEYS if (value := getattr(layer, key)) is not UNSET}
        if own.get("memory") and "data_dir" in own:
            raise UsageError("--memory and --data-dir exclude each other")
        if own.get("memory"):
            merged.pop("data_dir", None)
        if "data_dir" in own:
            merged.pop("memory", None)
        merged |= own
    if "id" not in merged:
        raise UsageError("which node? give it a name: p2p --id A --listen 9001")
    node_id: str = merged["id"]
    refuse_odd_id(node_id)
    if merged.get("json") and merged.get("tui") == "on":
        raise UsageError("--json and --tui on exclude each other")
    network: str = merged.get("network", "")
    try:
        size = len(network.encode())
    except UnicodeEncodeError:
        raise UsageError(f"--network {network[:80]!r} is no UTF-8") from None
    if size > NETWORK_BYTES_MAX:
        raise UsageError(f"--network {network[:20]}…: {size} bytes are more than {NETWORK_BYTES_MAX}")
    if merged.get("listen") and merged["listen"] == merged.get("listen_ws"):
        raise UsageError(f"--listen and --listen-ws are both {merged['listen']}: TCP and WebSocket need a port each")
    if "tls_key" in merged and "tls_cert" not in merged:
        raise UsageError("--tls-key without --tls-cert: a key alone proves nothing")
    if "tls_cert" in merged and "listen_ws" not in merged:
        raise UsageError("--tls-cert is for the WebSocket door: give --listen-ws, too")
    # Lines between the pictures of a table would tear it apart.
    calm = merged.get("quiet") or merged.get("tui") == "on"
    return Settings(
        id=node_id,
        listen=merged.get("listen", 0),
        host=merged.get("host"),
        data_dir=None if merged.get("memory") else _data_dir(node_id, merged.get("data_dir"), home),
        connect=tuple(_endpoint("--connect", text) for text in merged.get("connect", ())),
        connect_delay=merged.get("connect_delay", 0),
        no_connect=merged.get("no_connect", False),
        run=merged.get("run"),
        stats_every=merged.get("stats_every", 1000),
        tui=merged.get("tui") == "on",
        quiet=merged.get("quiet", False),
        json=merged.get("json", False),
        log_level=LEVELS[merged.get("log_level", "warn" if calm else "info")],
        network_key_file=_path(merged.get("network_key_file")),
        network=network,
        trust=_path(merged.get("trust")),
        open=merged.get("open", False),
        append_stdin=merged.get("append_stdin", False),
        finding={key: merged[key] for key in FINDING if key in merged},
        relay=merged.get("relay") == "on",
        via=tuple(_endpoint("--via", text) for text in merged.get("via", ())),
        limits=_limits(merged),
        expire_after=merged.get("expire_after"),
        listen_ws=merged.get("listen_ws"),
        tls_cert=_path(merged.get("tls_cert")),
        tls_key=_path(merged.get("tls_key")),
        tls_ca=_path(merged.get("tls_ca")),
        http=_http(merged),
    )


def _limits(merged: Mapping[str, Any]) -> Mapping[str, float]:
    bounds = {field: merged[key] for key, field in RELAY_LIMITS.items() if key in merged}
    if bounds and merged.get("relay") != "on":
        flag = "--" + next(key for key in RELAY_LIMITS if key in merged).replace("_", "-")
        raise UsageError(f"{flag} bounds a relay, and this node is none: add --relay on")
    return bounds


def _http(merged: Mapping[str, Any]) -> HttpSettings | None:
    beside = [key for key in merged if key.startswith("http_") and key != "http_unix"]
    if "http" not in merged and "http_unix" not in merged:
        if beside:
            flag = "--" + beside[0].replace("_", "-")
            raise UsageError(f"{flag} says how to serve HTTP, not where: add --http HOST:PORT or --http-unix PATH")
        return None
    if "http" in merged and "http_unix" in merged:
        raise UsageError("--http and --http-unix exclude each other")
    return HttpSettings(
        at=merged.get("http"),
        unix=_path(merged.get("http_unix")),
        tls_cert=_path(merged.get("http_tls_cert")),
        tls_key=_path(merged.get("http_tls_key")),
        hosts=tuple(merged.get("http_host", ())),
        proxies=tuple(merged.get("http_proxy", ())),
        open=merged.get("http_open", False),
    )


def _endpoint(flag: str, text: str) -> PeerEndpoint:
    if flag == "--connect" and is_peer_id_text(text):
        # Only who, and not where: over whichever relay leads there.
        return PeerEndpoint(ANY_RELAY, 0, RELAY, text)
    try:
        endpoint = PeerEndpoint.parse(text)
    except ConfigError as error:
        said = str(error)
        raise UsageError(f"{flag} {said}" if repr(text) in said else f"{flag} {text!r}: {said}") from None
    if not endpoint.is_dialable:
        raise UsageError(f"{flag} {endpoint}: port 0 cannot be dialled")
    dialled = DIALLED if flag == "--via" else (*DIALLED, RELAY)
    if flag == "--via" and endpoint.scheme == RELAY:
        raise UsageError(f"--via {endpoint}: name where the relay itself listens, such as tcp://HOST:PORT")
    if endpoint.scheme not in dialled:
        raise UsageError(f"{flag} {endpoint}: this version dials {', '.join(dialled)} and not {endpoint.scheme}")
    return endpoint


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _data_dir(node_id: str, given: str | None, home: Mapping[str, str]) -> Path:
    return default_data_dir(node_id, home) if given is None else Path(given).expanduser()


def refuse_odd_id(node_id: str) -> None:
    """Refuse what no node can be called.

    Raises:
        UsageError: it is no node id.
    """
    if not is_node_id(node_id):
        raise UsageError(f"--id {node_id[:80]!r}: a node id is 1-64 of A-Z a-z 0-9 . _ - and not 64 hex digits")


def default_data_dir(node_id: str, home: Mapping[str, str]) -> Path:
    """Where a node keeps its data if nothing else is said.

    Raises:
        UsageError: no directory can be called as the node is.
    """
    if set(node_id) == {"."}:
        raise UsageError(f"--id {node_id}: no directory can be called so; give one with --data-dir")
    state = home.get("XDG_STATE_HOME", "")
    # The base directory specification ignores relative paths in these variables.
    base = Path(state) if os.path.isabs(state) else Path(home.get("HOME") or "~").expanduser() / ".local" / "state"
    return base / "p2p" / node_id
