"""`p2p doctor`: whether this machine is fit to run a node, one verdict a line.

Each check looks at one thing, alone, within `CHECK_S_MAX`, and changes nothing: no data dir is made and no port stays
open. `bad` stands in a node's way, and the exit code is 1 then; `note` is good to know; what would mend it is part of
the line.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, Protocol

import trio

from p2p.cli.output import Output, counted, json_line
from p2p.cli.registry import load_token
from p2p.cli.signals import on_signal, stop_signals
from p2p.errors import AddressInUse, P2PError, RemoteProtocolError, StoreLocked
from p2p.ids import is_loopback
from p2p.limits import Limits
from p2p.registry.form import base_of, host_of, read_peers
from p2p.replication.batch import parse_batch
from p2p.store.base import LogReader
from p2p.store.keys import KEY_FILE, STORE_FILE, DirLock, load_identity, load_network_key, load_trust, open_reader
from p2p.text import one_line
from p2p.transport.base import Neighbourhood
from p2p.transport.http import make_http_client
from p2p.transport.interfaces import interfaces
from p2p.transport.system import SystemNetwork
from p2p.windows import system_entropy, system_wall_ms

CHECK_S_MAX: Final = 10.0
ECHO_S_MAX: Final = 2.0
ADDRESSES_SHOWN: Final = 8
"""Of one interface."""
DISK_BYTES_MIN: Final = 64 * 1024 * 1024
"""What a full disk needs to come back by itself, and then some."""
RELEASED: Final = 1_760_000_000
"""A clock that shows a time before this program was written is wrong."""
EXTRAS: Final = {
    "cli": ("click", "rich"),
    "http": ("quart_trio", "hypercorn", "httpx"),
    "bootstrap": ("httpx",),
    "ws": ("trio_websocket",),
    "redis": ("redis",),
}

Level = Literal["ok", "note", "bad"]


class Say(Protocol):
    """Tells one verdict."""

    def __call__(self, level: Level, what: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is to be looked at; None leaves the check out.

    Attributes:
        data_dir: a node's, which need not exist yet.
        host, port: where it would listen.
        discovery_port: UDP port of discovery.
        registry, registry_token_file, tls_ca: its URL, what it asks for, and who may have signed its certificate.
    """

    data_dir: Path | None
    host: str | None
    port: int
    discovery_port: int
    registry: str | None
    registry_token_file: Path | None
    tls_ca: Path | None
    network_key_file: Path | None
    trust: Path | None


def run_doctor(patient: Patient, *, as_json: bool) -> int:
    """Make all checks; returns 1 if one found what stands in a node's way."""
    return trio.run(_run, patient, as_json)


async def _run(patient: Patient, as_json: bool) -> int:
    report = _Report(as_json=as_json)
    with stop_signals() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_signal, signals, lambda number: os._exit(128 + number))
            for name, check in CHECKS.items():
                await _bounded(check, patient, partial(report.say, name))
            nursery.cancel_scope.cancel()
    return report.end()


class _Report:
    """Prints verdicts and counts them."""

    def __init__(self, *, as_json: bool) -> None:
        self._output = Output()
        self._as_json = as_json
        self._counts: dict[Level, int] = {"ok": 0, "note": 0, "bad": 0}

    def say(self, name: str, level: Level, what: str) -> None:
        """One line."""
        self._counts[level] += 1
        if self._as_json:
            self._output.verdict(json_line({"event": "check", "check": name, "verdict": level, "detail": what}))
        else:
            self._output.verdict(f"{level:<5}{name:<11}{one_line(what)}")

    def end(self) -> int:
        """The exit code, and with --json the counts."""
        ok, note, bad = self._counts.values()
        if self._as_json:
            self._output.verdict(json_line({"event": "summary", "fit": not bad, "ok": ok, "note": note, "bad": bad}))
        return 1 if bad else 0


Check = Callable[[Patient, Say], Awaitable[None]]


async def _bounded(check: Check, patient: Patient, say: Say) -> None:
    """Make one check; what it raises, and a time that is too long, are verdicts, too."""
    with trio.move_on_after(CHECK_S_MAX) as bound:
        try:
            await check(patient, say)
        except (P2PError, OSError) as error:
            say("bad", str(error))
    if bound.cancelled_caught:
        say("bad", f"it took longer than {CHECK_S_MAX:g} s")


async def _python(_: Patient, say: Say) -> None:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("trio", "cryptography", "msgspec"))
    say("ok", f"Python {sys.version.split()[0]}, {libraries}, SQLite {sqlite3.sqlite_version}")


async def _extras(_: Patient, say: Say) -> None:
    for extra, names in EXTRAS.items():
        missing = [name for name in names if find_spec(name) is None]
        if missing:
            say("note", f"{extra} is not installed: pip install 'trio-p2p[{extra}]', or '.[{extra}]' in a clone")
        else:
            say("ok", f"{extra} ({', '.join(_release(name) for name in names)})")


def _release(module: str) -> str:
    name = module.replace("_", "-")
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


async def _clock(patient: Patient, say: Say) -> None:
    now = system_wall_ms() / 1000
    shown = datetime.fromtimestamp(now, UTC).isoformat(sep=" ", timespec="seconds")
    if now < RELEASED:
        say("bad", f"it shows {shown}, which is over: set it, or let NTP do it")
        return
    say("ok", shown)
    if patient.data_dir is None or not (patient.data_dir / STORE_FILE).is_file():
        return
    try:
        with closing(open_reader(patient.data_dir)) as reader:
            ahead_s = _newest_ms(reader) / 1000 - now
    except P2PError:  # it is the store that is at fault: its own lines say so
        return
    if ahead_s > Limits().hlc_future_s_max:
        say("bad", f"the store's newest record is {ahead_s:.0f} s in the future: was the clock set back?")


def _newest_ms(reader: LogReader) -> int:
    """When the newest record that is held was written, in milliseconds since 1970; 0 without any."""
    newest = 0
    for origin, state in reader.states().items():
        for stored in reader.load(origin, state.seq, state.seq, 1).batches if state.seq else ():
            newest = max(newest, *(record.hlc >> 16 for record in parse_batch(stored.wal_bytes).records(None)))
    return newest


async def _store(patient: Patient, say: Say) -> None:
    data_dir = patient.data_dir
    if data_dir is None:
        return
    place = next(path for path in (data_dir, *data_dir.absolute().parents) if path.exists())
    if not place.is_dir():
        say("bad", f"{place} is no directory")
        return
    if not os.access(place, os.W_OK | os.X_OK):
        say("bad", f"{place} cannot be written by this user: give another data dir, or change its owner")
    free = shutil.disk_usage(place).free
    room = f"{free // (1024 * 1024)} MiB are free at {place}"
    if free >= DISK_BYTES_MIN:
        say("ok", room)
    else:
        say("bad", f"{room}: make room")
    if not (data_dir / STORE_FILE).is_file():
        key = (data_dir / KEY_FILE).is_file()
        say("note", f"{data_dir} holds {'a key and ' * key}no log yet: a node will make it")
        return
    mode = stat.S_IMODE((data_dir / KEY_FILE).stat().st_mode)
    if mode & 0o077:
        say("bad", f"{data_dir / KEY_FILE} has mode {mode:04o}: run `chmod 600 {data_dir / KEY_FILE}`")
        return
    own = load_identity(data_dir).peer_id
    with closing(open_reader(data_dir)) as reader:
        states = reader.states()
        own_seq, own_end = states[own].seq if own in states else 0, reader.own_end()
        _newest_ms(reader)
    frozen = [origin.short for origin, state in states.items() if state.frozen_from is not None]
    records = sum(state.seq for state in states.values())
    held = f"{counted(records, 'record')} of {counted(len(states), 'origin')}"
    say("ok", f"{own.short} holds {held}; `p2p wal verify` checks each")
    if own_end > own_seq:
        lost = f"a part of its own log is missing: it goes up to seq {own_end}, and it is held up to seq {own_seq}"
        say("bad", f"{lost}. Nothing is appended: start with --connect ADDRESS of a peer that holds the rest")
    if frozen:
        say("note", f"frozen, for they were forked: {', '.join(frozen)}")
    try:
        DirLock(data_dir).close()
    except StoreLocked:
        say("note", "a process has it open: a node runs on it")


async def _secrets(patient: Patient, say: Say) -> None:
    if patient.network_key_file is not None:
        load_network_key(patient.network_key_file)
        say("ok", f"{patient.network_key_file} is a network key")
    if patient.trust is not None:
        say("ok", f"{patient.trust} names {len(load_trust(patient.trust))} identities")


async def _port(patient: Patient, say: Say) -> None:
    where = f"{patient.host or 'all interfaces'}"
    try:
        listener = await SystemNetwork().listen(patient.host, patient.port)
    except AddressInUse:
        say("bad", f"TCP port {patient.port} on {where} is in use: stop what listens there (a node?)")
        return
    await listener.aclose()
    say("ok", f"TCP port {patient.port or '0, any free one,'} on {where} can be listened on")


async def _interfaces(_: Patient, say: Say) -> None:
    found = interfaces()
    for interface in found:
        parts = list(interface.addresses[:ADDRESSES_SHOWN]) or ["no address"]
        if interface.broadcast:
            parts.append(f"broadcast {interface.broadcast}")
        if interface.has_multicast:
            parts.append("multicast")
        say("ok", f"{interface.name}: {', '.join(parts)}")
    if not any(interface.is_loopback and interface.address for interface in found) and sys.platform == "linux":
        say("bad", "loopback is down: run `ip link set lo up` as root")
    if all(interface.is_loopback for interface in found):
        say("note", "there is loopback alone: nobody outside of this machine can be reached")


async def _discovery(patient: Patient, say: Say) -> None:
    """Whether a datagram to everybody comes back to this machine, on loopback, and where it cannot be sent at all."""
    word = b"p2p doctor " + system_entropy(8).hex().encode()
    network = SystemNetwork()
    near = await network.datagrams(Neighbourhood(port=patient.discovery_port, loopback_only=True))
    try:
        spread = near.spread(word)
        with trio.move_on_after(ECHO_S_MAX):
            while (await near.receive())[0] != word:
                pass
            say("ok", f"a broadcast on loopback came back at UDP port {patient.discovery_port}")
            return
    finally:
        await near.aclose()
    say("bad", f"a broadcast on loopback does not come back: {'; '.join(spread.failures) or 'a firewall?'}")


async def _registry(patient: Patient, say: Say) -> None:
    if patient.registry is None:
        return
    base, token_file = base_of(patient.registry), patient.registry_token_file
    token = load_token(token_file) if token_file is not None else None
    if token is not None and base.startswith("http:") and not is_loopback(host_of(base)):
        say("note", f"the token for {base} travels in clear: use https")
    began = trio.current_time()
    async with make_http_client(token=token, ca_file=patient.tls_ca) as http:
        answer = await http.request("GET", f"{base}/peers?limit=1")
    took_ms = (trio.current_time() - began) * 1000
    if answer.status in (401, 403) and token is None:
        say("note", f"{base} answers {answer.status}: it wants a token: give --registry-token-file")
    elif answer.status in (401, 403):
        raise RemoteProtocolError(f"{base} answers {answer.status}: it wants another token than {token_file} holds")
    elif answer.status != 200:
        raise RemoteProtocolError(f"{base} answers {answer.status}: is it the URL of a registry?")
    else:
        read_peers(answer.body, 1)
        say("ok", f"{base} answered within {took_ms:.0f} ms")


CHECKS: Final[dict[str, Check]] = {
    "python": _python,
    "extras": _extras,
    "clock": _clock,
    "store": _store,
    "secrets": _secrets,
    "port": _port,
    "interfaces": _interfaces,
    "discovery": _discovery,
    "registry": _registry,
}
