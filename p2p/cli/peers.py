"""`p2p peers`: whom a data dir knows, beside a running node or without one.

A peer is known by its log, which is held, or by its label, which is pinned to its identity so that nobody else takes
it. To forget a peer here frees its label; its log is `p2p wal forget`'s.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from p2p.cli.output import Output, complain, json_line
from p2p.errors import ConfigError
from p2p.ids import PeerId
from p2p.store.base import OriginState
from p2p.store.keys import load_identity, open_reader, open_store
from p2p.text import one_line
from p2p.windows import system_entropy


def print_peers(data_dir: Path, *, as_json: bool) -> int:
    """Print all that are known, ordered by label: one line each."""
    own = load_identity(data_dir).peer_id
    with closing(open_reader(data_dir)) as reader:
        labels = {peer_id: node_id for node_id, peer_id in reader.pins().items()}
        states = reader.states()
    known = sorted({*labels, *states} - {own}, key=lambda peer_id: (labels.get(peer_id, "~"), peer_id))
    output = Output()
    for peer_id in known:
        state = states.get(peer_id, OriginState())
        frozen = state.frozen_from is not None
        if as_json:
            fields = {"peer_id": str(peer_id), "node_id": labels.get(peer_id), "records": state.seq, "frozen": frozen}
            output.result(json_line(fields))
        else:
            label = labels.get(peer_id, "-")
            output.result(one_line(f"{label} {peer_id} {state.seq} records{', frozen' * frozen}"))
    if not known and not as_json:
        complain(f"{data_dir} knows nobody yet")
    return 0


def forget_peer(data_dir: Path, who: str, *, as_json: bool) -> int:
    """Free the label of a peer, named by label or peer id; the next identity that shows it gets it."""
    # Opening for writing would initialise an empty data dir: there is nobody to forget in one.
    open_reader(data_dir).close()
    store, _ = open_store(data_dir, entropy=system_entropy, say=complain)
    with closing(store):
        node_id, peer_id = _pin_of(store.pins(), who, data_dir)
        with store.write() as transaction:
            transaction.drop_pin(node_id)
    line = json_line({"forgot": node_id, "peer_id": str(peer_id)})
    Output().result(line if as_json else f"{node_id} is no longer {peer_id.short}'s: the label is free")
    return 0


def _pin_of(pins: dict[str, PeerId], who: str, data_dir: Path) -> tuple[str, PeerId]:
    for node_id, peer_id in pins.items():
        if who in (node_id, str(peer_id)):
            return node_id, peer_id
    raise ConfigError(f"{data_dir} has pinned no label to {who!r}: see `p2p peers --data-dir {data_dir}`")
