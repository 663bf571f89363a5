"""How much work is a message, a handshake, a batch, an append? Counted, not timed, so that a machine's load is nothing.

Each task runs under the interpreter's own hooks, which tell of every call and of every bytecode instruction. The same
code gives the same counts on every machine with the same version of Python, to within a percent, so a count that grew
by more than `GROWTH_MAX` is a regression that somebody made; tests/house/test_work.py fails then.

What C does is no instruction, so it is counted by what it costs: each call of what is dear (`DEAR`: cryptography,
hashes, syncs, SQL) by its name, of which not one more is allowed, and the bytes of the memory that Python takes in
pieces of `PIECE_BYTES` or more, which is what a copy is. Not seen: how long such a call takes, what moves within its
place (the front of a bytearray cut off), memory that SQLite or the cryptography takes for itself, and that a call of
anything else in C is dear: it is one call. The timed benchmarks see those.

    .venv/bin/python -m benchmarks.guard          what it is now, beside the numbers that are kept
    .venv/bin/python -m benchmarks.guard --keep   keep these: say why in the commit
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from unittest.mock import patch

from p2p.crypto.identity import Identity
from p2p.crypto.noise import NoiseStatic
from p2p.envelope import ACK_REQ
from p2p.framing import FrameDecoder
from p2p.limits import KIB, Limits
from p2p.msg import Data, encode_data
from p2p.node.commits import Committer, Group, PushJob
from p2p.peer.outbox import Outbox
from p2p.replication.batch import NewRecord, encode_portions, parse_batch, verify_signature
from p2p.session import sealing
from p2p.session.events import PeerProven
from p2p.session.handshake import SessionConfig
from p2p.session.sealing import AES_256_GCM, Direction
from p2p.session.session import Session
from p2p.session.states import Role
from p2p.store.memory import MemoryStore
from p2p.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import TraceFunction

    from p2p.replication.batch import Batch

GROWTH_MAX: Final = 0.15
DEAR: Final = frozenset({
    "encrypt", "decrypt", "sign", "verify", "exchange", "generate", "from_public_bytes", "from_private_bytes",
    "openssl_sha256", "update", "fsync", "fdatasync", "execute", "executemany", "commit",
})  # fmt: skip
PIECE_BYTES: Final = KIB
BYTES_OF_OTHERS: Final = 4 * KIB
"""What another thread of this process may take meanwhile, such as the one that tells how the tests go."""
KEPT: Final = Path(__file__).with_name("guard.json")
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
MESSAGES: Final = 200
RECORDS: Final = 1000
WALL_MS: Final = 1_800_000_000_000
_DATA: Final = int(Data.TYPE)
_MAKE_CIPHER: Final = "make_cipher"


class Work(NamedTuple):
    """What a task did.

    Attributes:
        calls: of functions, in Python and in C.
        instructions: of bytecode.
        bytes: of memory taken in pieces of `PIECE_BYTES` or more.
        dear: how often each dear function was called, by all of the task.
    """

    calls: int
    instructions: int
    bytes: int
    dear: dict[str, int]


def count(task: Callable[[], object]) -> Work:
    """Run a task once and count its work."""
    calls = instructions = taken = held = 0
    dear: Counter[str] = Counter()

    def on_call(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        if event == "c_call":
            calls += 1
            name = getattr(arg, "__name__", "")
            # A dict and a set have an `update`, too.
            if name in DEAR and not isinstance(getattr(arg, "__self__", None), dict | set):
                dear[name] += 1
        elif event == "call":
            calls += 1
            if frame.f_code.co_name == _MAKE_CIPHER:
                dear["ciphers made"] += 1

    def on_step(frame: FrameType, event: str, arg: object) -> TraceFunction:
        nonlocal instructions, taken, held
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            instructions += 1
        # Since the step before: no instruction takes two large pieces and gives the first back.
        now, peak = tracemalloc.get_traced_memory()
        if peak - held >= PIECE_BYTES:
            taken += peak - held
        held = now
        tracemalloc.reset_peak()
        return on_step

    before = sys.gettrace(), sys.getprofile()
    was_collecting, was_tracing = gc.isenabled(), tracemalloc.is_tracing()
    # A collection may call whoever asked to be told of it.
    gc.disable()
    tracemalloc.start()
    held, _ = tracemalloc.get_traced_memory()
    sys.setprofile(on_call)
    sys.settrace(on_step)
    try:
        task()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
        if not was_tracing:
            tracemalloc.stop()
        if was_collecting:
            gc.enable()
    return Work(calls, instructions, taken, dict(sorted(dear.items())))


def measure() -> dict[str, Work]:
    """Count every task; per message, per handshake or per 100 records."""
    ciphers = {name: _told(cipher) for name, cipher in sealing._CIPHERS.items()}  # noqa: SLF001  # no seam for a count
    with patch.object(sealing, "_CIPHERS", ciphers):
        return {
            name: Work(work.calls // units, work.instructions // units, work.bytes // units, work.dear)
            for name, (work, units) in _counted()
        }


def _told(cipher: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    # The interpreter does not tell when a class in C is called.
    def make_cipher(key: bytes) -> Any:
        return cipher(key)

    return make_cipher


def _counted() -> Iterator[tuple[str, tuple[Work, int]]]:
    yield "handshake, both sides", (_handshake(), 1)
    yield "message of 128 B, outbox to event", (_messages(128), MESSAGES)
    yield "message of 20 KiB, outbox to event", (_messages(20 * KIB), MESSAGES)
    yield "question and answer of 128 B, both sessions", (_questions(128), MESSAGES)
    yield "seal, frame, cut and open 1 KiB", (_seals(), MESSAGES)
    yield "parse and verify a batch, 100 records", (_verify(), RECORDS // 100)
    yield "append to SQLite, 100 records", (_append(_records()), RECORDS // 100)
    yield "the same, of many lengths", (_append(_records(varied=True)), RECORDS // 100)
    yield "take in a push to SQLite, 100 records", (_take_in(), RECORDS // 100)


def grown(kept: Mapping[str, Any], found: Mapping[str, Work]) -> list[str]:
    """What takes more than it did, one line each."""
    lines = []
    for name, work in found.items():
        *numbers, dear = kept[name]
        for what, before, now in zip(Work._fields, numbers, work, strict=False):
            noise = BYTES_OF_OTHERS if what == "bytes" else 0
            if now > before * (1 + GROWTH_MAX) + noise:
                lines.append(f"{name}: {now} {what}, and {before} before ({now / max(before, 1) - 1:+.0%})")
        for what, now in work.dear.items():
            if now > dear.get(what, 0):
                lines.append(f"{name}: {now} calls of {what}, and {dear.get(what, 0)} before")
    return lines


def _entropy(seed: str) -> Callable[[int], bytes]:
    number = 0

    def read(size: int) -> bytes:
        nonlocal number
        number += 1
        return hashlib.shake_256(f"{seed} {number}".encode()).digest(size)

    return read


def _sessions() -> tuple[Session, Session]:
    def side(name: str, role: Role) -> Session:
        source = _entropy(name)
        config = SessionConfig(
            node_id=name,
            identity=Identity.generate(source),
            static=NoiseStatic.generate(source),
            network_key=bytes(32),
            network_name="",
            capabilities=(("bundle", "1"), ("cipher", "aes256gcm,chacha20poly1305")),
            limits=Limits(),
        )
        return Session(config, role, entropy=source, now=0.0, wall_ms=WALL_MS)

    return side("a", Role.INITIATOR), side("b", Role.RESPONDER)


def _move(sender: Session, receiver: Session) -> None:
    receiver.receive_data(sender.data_to_send(), 0.0)
    while (event := receiver.next_event()) is not None:
        if isinstance(event, PeerProven):
            receiver.accept()


def _shake_hands(a: Session, b: Session) -> None:
    _move(a, b)
    _move(b, a)
    _move(a, b)
    b.send(_DATA, Data("hello").encode())
    _move(b, a)


def _handshake() -> Work:
    a, b = _sessions()
    return count(lambda: _shake_hands(a, b))


def _messages(size: int) -> Work:
    a, b = _sessions()
    _shake_hands(a, b)
    outbox, body = Outbox(Limits()), bytes(size)

    def send_and_receive() -> None:
        for _ in range(MESSAGES):
            while not outbox.put_data(Data("chat", body=body).encode()):
                outbox.drain(a, 64 * KIB)
                _move(a, b)
        while outbox:
            outbox.drain(a, 64 * KIB)
            _move(a, b)

    return count(send_and_receive)


def _questions(size: int) -> Work:
    a, b = _sessions()
    _shake_hands(a, b)
    body = bytes(size)

    def ask_and_answer() -> None:
        for _ in range(MESSAGES):
            asked = a.seal_alone(encode_data(b"chat", 0, 0, body), ACK_REQ)
            assert asked is not None
            question = b.receive_alone(asked[1], 0.0)
            assert question is not None
            answered = b.seal_alone(encode_data(b"", question.msg_id, Data.OK, body), 0)
            assert answered is not None
            assert a.receive_alone(answered[1], 0.0) is not None

    return count(ask_and_answer)


def _seals() -> Work:
    sealing, opening = (Direction(AES_256_GCM, bytes(32), 65_536) for _ in range(2))
    payload = bytes(KIB)

    def seal_and_open() -> None:
        decoder = FrameDecoder()
        for msg_id in range(MESSAGES):
            decoder.feed(sealing.seal(_DATA, msg_id, 0, payload))
            frame = decoder.next_frame()
            assert frame is not None
            opening.open(frame)

    return count(seal_and_open)


def _records(*, varied: bool = False) -> list[NewRecord]:
    return [NewRecord("app", None, bytes(200 + number % 100 if varied else 256)) for number in range(RECORDS)]


def _batch() -> Batch:
    identity = Identity.generate(_entropy("origin"))
    committer = Committer(MemoryStore(identity.peer_id), identity, Limits())
    committer.start()
    return committer.commit(Group(portions=encode_portions(_records())), WALL_MS).sealed[0]


def _verify() -> Work:
    wal_bytes = _batch().wal_bytes
    return count(lambda: verify_signature(parse_batch(wal_bytes)))


@contextmanager
def _sqlite() -> Iterator[Committer]:
    identity = Identity.generate(_entropy("own"))
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder) / "log", identity.peer_id)) as store:
        committer = Committer(store, identity, Limits())
        committer.start()
        yield committer


def _append(records: list[NewRecord]) -> Work:
    with _sqlite() as committer:
        return count(lambda: committer.commit(Group(portions=encode_portions(records)), WALL_MS))


def _take_in() -> Work:
    batch = _batch()
    push = PushJob(batch.seq_begin, batch.seq_end, batch.wal_bytes, admitted=True)
    with _sqlite() as committer:
        return count(lambda: committer.commit(Group(jobs=[push]), WALL_MS))


def main() -> int:
    """Print what it is now beside what is kept, or keep it; 1 if something grew."""
    found = measure()
    if sys.argv[1:] == ["--keep"]:
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(work)}" for name, work in found.items())
        KEPT.write_text(f'{{\n  "python": "{PYTHON}",\n  "work": {{\n{lines}\n  }}\n}}\n', encoding="utf-8")
        return 0
    kept = json.loads(KEPT.read_text(encoding="utf-8"))["work"]
    for name, work in found.items():
        print(name)
        print("    now ", *work[:-1], work.dear)
        print("    kept", *kept.get(name, ["-"]))
    regressions = grown(kept, found)
    print("\n".join(regressions))
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
