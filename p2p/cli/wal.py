"""`p2p wal …`, but for `append`: read a data dir beside a running node, or forget what it holds while none runs.

The reading commands open the store read-only and read anew at each look, so that a node beside them is never in their
way. Who looks once needs no event loop, and none is loaded.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from p2p.cli.output import PAYLOAD_BYTES_MAX, Output, complain, counted, json_line
from p2p.cli.settings import UsageError
from p2p.errors import ConfigError, StoreCorrupt
from p2p.ids import PeerId
from p2p.replication.batch import Record, parse_batch
from p2p.replication.heads import LogHead, digest
from p2p.store.base import MEND_FILE, OWNER, LogReader, OriginState, detail_of
from p2p.store.keys import mend_store, open_reader, open_store, owner_damage
from p2p.text import one_line
from p2p.windows import system_entropy

FOLLOW_S: Final = 0.2
"""How often `--follow` looks."""
_OWN: Final = "(own)"
"""Who wrote a record of the data dir's own log: the dir knows the key, and not the label that it ran under."""
_BEYOND: Final = "(beyond the fork)"
"""Before a record that is no part of a log."""
READ_BYTES: Final = 256 * 1024


def print_records(data_dir: Path, *, as_json: bool, follow: bool, beyond_fork: bool = False) -> int:
    """Print all records, oldest first as far as their origins' clocks agree; with follow, what comes, too.

    Args:
        beyond_fork: only what is stored of forked logs from the fork on, which is no part of them.
    """
    done: dict[PeerId, int] = {}
    damaged: dict[PeerId, _Damaged] = {}

    def look() -> Generator[str]:
        with closing(open_reader(data_dir)) as reader:
            labels = {peer_id: node_id for node_id, peer_id in reader.pins().items()}
            logs = []
            for origin, state in reader.states().items():
                if origin in damaged and damaged[origin].state == state:
                    continue
                after, end = _cut_off(state) if beyond_fork else (0, state.seq)
                after = max(after, done.get(origin, 0))
                if end > after:
                    logs.append(_records(reader, origin, state, after + 1, end, labels))
            for record in heapq.merge(*logs, key=_age):
                if isinstance(record, _Damaged):
                    before = damaged.get(record.origin)
                    damaged[record.origin] = record
                    if before is None or before.seq != record.seq:
                        complain(f"the log of {record.origin} is damaged at seq {record.seq}: see `p2p wal verify`")
                    continue
                show = _record_json if as_json else _record_text
                yield show(record, reader.own, beyond_fork=beyond_fork)
                done[record.origin] = record.seq

    _watch(look, follow=follow)
    return 1 if damaged else 0


@dataclass(frozen=True, slots=True)
class _Damaged:
    """Where a log cannot be read any further, as long as nothing about it has changed."""

    origin: PeerId
    seq: int
    state: OriginState


def _age(record: Record | _Damaged) -> tuple[int, bytes]:
    return (0, b"") if isinstance(record, _Damaged) else (record.hlc, record.origin)


def _records(
    reader: LogReader, origin: PeerId, state: OriginState, from_seq: int, to_seq: int, labels: Mapping[PeerId, str]
) -> Iterator[Record | _Damaged]:
    while from_seq <= to_seq:
        loaded = reader.load(origin, from_seq, to_seq, READ_BYTES)
        for stored in loaded.batches:
            for record in parse_batch(stored.wal_bytes).records(labels.get(origin)):
                if record.seq >= from_seq:
                    yield record
        if loaded.damaged is not None:
            yield _Damaged(origin, loaded.damaged.seq_begin, state)
            return
        if not loaded.batches:
            return
        from_seq = loaded.batches[-1].seq_end + 1


def _cut_off(state: OriginState) -> tuple[int, int]:
    """After which seq, and up to which, something may be stored that is no part of the log."""
    return (0, 0) if state.frozen_from is None else (state.seq, state.tail_seq)


def _record_text(record: Record, own: PeerId, *, beyond_fork: bool) -> str:
    payload = record.payload.decode("utf-8", "backslashreplace")
    who = record.node_id or (_OWN if record.origin == own else record.origin.short)
    whom = "" if record.target is None else f" to {record.target.short}"
    mark = f"{_BEYOND} " if beyond_fork else ""
    return one_line(f"{mark}{who} {record.seq} {record.kind}{whom} {payload}", PAYLOAD_BYTES_MAX)


def _record_json(record: Record, _own: PeerId, *, beyond_fork: bool) -> str:
    import base64

    fields: dict[str, object] = {
        "origin": str(record.origin),
        "node_id": record.node_id,
        "seq": record.seq,
        "kind": record.kind,
        "target": None if record.target is None else str(record.target),
        "hlc": record.hlc,
        "time": record.time.isoformat(timespec="milliseconds"),
    }
    if beyond_fork:
        fields["beyond_fork"] = True
    try:
        fields["payload"] = record.payload.decode()
    except UnicodeDecodeError:
        fields["payload_base64"] = base64.b64encode(record.payload).decode()
    return json_line(fields)


def print_digest(data_dir: Path, *, as_json: bool, follow: bool) -> int:
    """Print the digest and how many records it covers; with follow, whenever it changes."""
    shown = ""

    def look() -> Generator[str]:
        nonlocal shown
        heads = _heads(data_dir)
        value, records = digest(heads).hex(), sum(head.seq for head in heads.values())
        line = json_line({"digest": value, "records": records}) if as_json else f"{value} {counted(records, 'record')}"
        if line != shown:
            shown = line
            yield line

    _watch(look, follow=follow)
    return 0


def print_heads(data_dir: Path, *, as_json: bool, follow: bool) -> int:
    """Print every origin's head; with follow, again as they move."""
    shown: dict[PeerId, LogHead] = {}

    def look() -> Generator[str]:
        for origin, head in sorted(_heads(data_dir).items()):
            if shown.get(origin) == head:
                continue
            shown[origin] = head
            if as_json:
                fields = {"origin": str(origin), "seq": head.seq, "hash": head.hash.hex(), "frozen": head.frozen}
                yield json_line(fields)
            else:
                yield f"{origin} {head.seq} {head.hash.hex()}{' frozen' if head.frozen else ''}"

    _watch(look, follow=follow)
    return 0


def _heads(data_dir: Path) -> dict[PeerId, LogHead]:
    with closing(open_reader(data_dir)) as reader:
        return {origin: state.head for origin, state in reader.states().items()}


def verify_store(data_dir: Path, *, as_json: bool) -> int:
    """Check everything; 1 and one line per damage if something is wrong."""
    output = Output()
    found = 0
    remedies: dict[str, None] = {}
    records = origins = 0
    keyless: ConfigError | None = None
    try:
        with closing(open_reader(data_dir)) as reader:
            foreign = None
            try:
                foreign = owner_damage(data_dir, reader.own)
            except ConfigError as error:
                # The store may be whole all the same.
                keyless = error
            for damage in chain(() if foreign is None else (foreign,), reader.verify()):
                found += 1
                where = None if damage.origin is None else str(damage.origin)
                remedies[damage.remedy] = None
                fields = {
                    "damage": damage.what,
                    "origin": where,
                    "seq": damage.seq_begin,
                    "detail": damage.detail,
                    "remedy": damage.remedy,
                }
                output.verdict(json_line(fields) if as_json else one_line(f"damaged: {damage}"))
            if not found:
                states = reader.states().values()
                origins, records = len(states), sum(state.seq for state in states)
    except StoreCorrupt as error:
        found += 1
        fields = {"damage": "file", "origin": None, "seq": None, "detail": detail_of(error), "remedy": MEND_FILE}
        output.verdict(json_line(fields) if as_json else one_line(f"damaged: {detail_of(error)}"))
        remedies[MEND_FILE] = None
    if MEND_FILE in remedies:
        # Whatever else is wrong in a file may come from its structure, and be right in the next.
        remedies = {remedy: None for remedy in remedies if remedy in (MEND_FILE, OWNER)}
    for remedy in remedies:
        complain(f"what to do: {remedy}")
    if keyless is not None and found:
        complain(str(keyless))
    elif keyless is not None:
        raise ConfigError(f"{counted(records, 'record')} of {counted(origins, 'origin')} are whole, but {keyless}")
    if as_json:
        output.verdict(json_line({"ok": not found, "records": records, "origins": origins, "damaged": found}))
    elif not found:
        output.verdict(f"ok: {counted(records, 'record')} of {counted(origins, 'origin')}")
    return 1 if found else 0


def mend_file(data_dir: Path, *, as_json: bool) -> int:
    """Write the store's file anew if its structure is damaged."""
    line = mend_store(data_dir)
    mended = {"mended": line is not None, "detail": line}
    Output().result(json_line(mended) if as_json else line or "the structure of the file is whole: nothing to mend")
    return 0


def forget_origin(data_dir: Path, origin_text: str, *, as_json: bool) -> int:
    """Drop everything that is held of one origin."""
    try:
        origin = PeerId.parse(origin_text)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    # Opening for writing would initialise an empty data dir: there is nothing to forget in one.
    open_reader(data_dir).close()
    store, identity = open_store(data_dir, entropy=system_entropy, say=complain)
    with closing(store):
        if origin == identity.peer_id:
            raise ConfigError(f"{origin} is this data dir's own identity: its log cannot be forgotten")
        state = store.current().get(origin)
        if state is None:
            raise ConfigError(f"{data_dir} holds nothing of {origin}")
        with store.write() as transaction:
            transaction.forget(origin)
    line = {"forgot": str(origin), "records": state.seq}
    Output().result(json_line(line) if as_json else f"forgot {counted(state.seq, 'record')} of {origin}")
    return 0


def _watch(look: Callable[[], Generator[str]], *, follow: bool) -> None:
    """Show what a look sees; with follow, again and again until a signal says stop, or nobody reads any more."""
    with closing(Output()) as output:
        if follow:
            _follow(look, output)
            return
        for line in look():
            output.result(line)


def _follow(look: Callable[[], Generator[str]], output: Output) -> None:
    import trio

    from p2p.cli.signals import on_signal, stop_signals

    async def follow() -> None:
        with stop_signals() as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(on_signal, signals, lambda _: nursery.cancel_scope.cancel())
                while True:
                    output.check_reader()
                    with closing(look()) as lines:
                        for line in lines:
                            await output.show(line)
                    await trio.sleep(FOLLOW_S)

    trio.run(follow)
