"""Rows of the store's file, read as what they stand for; one that makes no sense is damage, and told as that."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final, TypeGuard

from p2p.errors import StoreCorrupt
from p2p.ids import PeerId
from p2p.replication.accept import Held
from p2p.store.base import WHOLE_FILE, OriginState
from p2p.store.blobs import malformed
from p2p.store.schema import STEPS

_STATES: Final = "SELECT peer_id, seq, hash, tail_seq, size, frozen_from, {}, {} FROM origins"
_LOST_SINCE: Final = 2
_CLAIMED_SINCE: Final = 5
"""The versions of the schema that brought these columns. A tool that only reads looks at older files as they are."""


def read_states(connection: sqlite3.Connection, path: Path, version: int = len(STEPS)) -> dict[PeerId, OriginState]:
    """What the file says of every log."""
    states: dict[PeerId, OriginState] = {}
    lost = "lost_seq" if version >= _CLAIMED_SINCE else "0"
    claimed = "claimed_seq" if version >= _CLAIMED_SINCE else "lost_seq" if version >= _LOST_SINCE else "0"
    rows = connection.execute(_STATES.format(lost, claimed))
    for peer_id, seq, batch_hash, tail_seq, size, frozen_from, lost_seq, claimed_seq in rows.fetchall():
        if not (
            isinstance(batch_hash, bytes)
            and len(batch_hash) == 32
            and all(isinstance(number, int) for number in (seq, tail_seq, size, lost_seq, claimed_seq))
            and isinstance(frozen_from, int | None)
        ):
            raise StoreCorrupt(f"the store {path} has a damaged list of origins. {WHOLE_FILE}")
        state = OriginState(seq, batch_hash, tail_seq, size, frozen_from, lost_seq, claimed_seq)
        states[peer_id_of(peer_id, path)] = state
    return states


def read_numbers(connection: sqlite3.Connection, path: Path) -> dict[PeerId, int]:
    """Under which number the file knows whose log."""
    rows = connection.execute("SELECT no, peer_id FROM origins").fetchall()
    return {peer_id_of(peer_id, path): no for no, peer_id in rows}


def held_of(seq_begin: object, seq_end: object, batch_hash: object) -> Held:
    """What a row of the chain says.

    Raises:
        sqlite3.DatabaseError: it is none: the page that it lies on is damaged.
    """
    # Where a batch begins need not make sense: such a row is found out, and another one takes its place.
    if not (isinstance(seq_begin, int) and isinstance(seq_end, int) and isinstance(batch_hash, bytes)):
        raise malformed("a row of the table chain holds what makes no sense")
    if seq_end < 1 or len(batch_hash) != 32:
        raise malformed(f"a row of the table chain makes no sense: a batch that ends at seq {seq_end}")
    return Held(seq_begin, seq_end, batch_hash)


def peer_id_of(value: object, path: Path) -> PeerId:
    """What a row names somebody by.

    Raises:
        StoreCorrupt: that is no peer id.
    """
    if not is_peer_id(value):
        raise StoreCorrupt(f"the store {path} names somebody by what is no peer id. {WHOLE_FILE}")
    return PeerId(value)


def is_peer_id(value: object) -> TypeGuard[bytes]:
    """Whether it can be one."""
    return isinstance(value, bytes) and len(value) == 32
