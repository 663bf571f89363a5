"""A process that meets places where nothing can be written, and says what it sees.

    python -m tests.crash.unwritable DIR

DIR is a mount point: small file systems are mounted there, filled up, and made read-only.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from p2p.errors import P2PError
from p2p.replication.batch import NewRecord, encode_portions, seal
from p2p.replication.heads import ZERO_HASH
from p2p.store.keys import open_reader, open_store
from tests.crash.appender import say


def mounted(path: Path, *how: str) -> None:
    subprocess.run(["mount", *how, str(path)], check=True, timeout=30)


def outcome(of: str, data_dir: Path) -> None:
    """Open it for writing or reading, and tell how that went."""
    try:
        if of == "start":
            open_store(data_dir, entropy=os.urandom, say=lambda _: None)[0].close()
            say(f"{of} ok")
        else:
            with closing(open_reader(data_dir)) as reader:
                assert list(reader.verify()) == []
                say(" ".join([of, *(str(state.seq) for state in reader.states().values())]))
    except P2PError as error:
        parts = [part for part in ("disk is full", "damaged", "copy", "start again") if part in str(error)]
        say(" ".join([of, type(error).__name__, *parts]))


def main(path: Path) -> None:
    data_dir = path / "data"
    for size in ("40k", "64k", "120k"):
        mounted(path, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
        outcome("start", data_dir)
        outcome("read", data_dir)
        subprocess.run(["umount", str(path)], check=True, timeout=30)

    mounted(path, "-t", "tmpfs", "-o", "size=2m", "tmpfs")
    store, identity = open_store(data_dir, entropy=os.urandom, say=lambda _: None)
    batch = seal(
        origin=identity.peer_id, seq_begin=1, prev_hash=ZERO_HASH, base_hlc=1,
        portions=encode_portions([NewRecord("app", None, b"one")]), sign=identity.sign,
    )  # fmt: skip
    with closing(store), store.write() as transaction:
        transaction.append(batch)
    filler = path / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    outcome("start", data_dir)
    outcome("read", data_dir)
    filler.unlink()
    mounted(path, "-o", "remount,ro")
    outcome("start", data_dir)
    outcome("read", data_dir)

    # As a power cut leaves it: the last commit is in SQLite's log, and nothing else is there.
    mounted(path, "-o", "remount,rw")
    connection = sqlite3.connect(data_dir / "log.sqlite", isolation_level=None)
    connection.execute("INSERT INTO bans VALUES (zeroblob(32), 1)")
    for name in ("log.sqlite", "log.sqlite-wal"):
        (data_dir / f"{name}.copy").write_bytes((data_dir / name).read_bytes())
    connection.close()
    for name in ("log.sqlite", "log.sqlite-wal"):
        os.replace(data_dir / f"{name}.copy", data_dir / name)
    mounted(path, "-o", "remount,ro")
    outcome("read", data_dir)


main(Path(sys.argv[1]))
