"""`p2p peers`: whom a data dir knows, beside a running node or without one.

A peer is known by its log, which is held, by its label, which is pinned to its identity so that nobody else takes it,
and by the places of the address book where it was met. To forget a peer here frees its label and its places; its log is
`p2p wal forget`'s. Who is banned is left alone by the node, whoever dials, until the ban ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from p2p.cli.output import Output, complain, counted, json_line
from p2p.errors import ConfigError
from p2p.ids import PeerId, is_peer_id_text
from p2p.limits import Limits
from p2p.policy.book import BookPlace
from p2p.store.base import OriginState, Store
from p2p.store.keys import load_identity, open_reader, open_store
from p2p.text import one_line
from p2p.windows import system_entropy, system_wall_ms


def print_peers(data_dir: Path, *, as_json: bool) -> int:
    """Print all that are known, ordered by label: one line each."""
    now_ms = system_wall_ms()
    with closing(open_reader(data_dir)) as reader:
        own = load_identity(data_dir).peer_id
        labels = {peer_id: node_id for node_id, peer_id in reader.pins().items()}
        states = reader.states()
        places: dict[PeerId, list[BookPlace]] = {}
        for place in reader.book():
            places.setdefault(place.peer_id, []).append(place)
        bans = {peer_id: until_ms for peer_id, until_ms in reader.bans().items() if until_ms > now_ms}
    everybody = {*labels, *states, *places, *bans} - {own}
    known = sorted(everybody, key=lambda peer_id: (labels.get(peer_id, "~"), peer_id))
    output = Output()
    for peer_id in known:
        fields = {
            "peer_id": str(peer_id),
            "node_id": labels.get(peer_id),
            "records": states.get(peer_id, OriginState()).seq,
            "frozen": states.get(peer_id, OriginState()).frozen_from is not None,
            "places": [_place_fields(place) for place in places.get(peer_id, ())],
            "banned_until": _time(bans[peer_id]) if peer_id in bans else None,
        }
        output.result(json_line(fields) if as_json else one_line(_as_text(fields)))
    if not known and not as_json:
        complain(f"{data_dir} knows nobody yet")
    return 0


def _place_fields(place: BookPlace) -> dict[str, object]:
    return {
        "endpoint": str(place.endpoint),
        "source": place.source,
        "last_success": _time(place.good_ms),
        "failures": place.failures,
    }


def _as_text(fields: dict[str, Any]) -> str:
    parts = [f"{fields['node_id'] or '-'} {fields['peer_id']} {counted(fields['records'], 'record')}"]
    parts += ["frozen"] if fields["frozen"] else []
    parts += [
        f"at {place['endpoint']} ({place['source']}, {place['last_success']}"
        + (f", failed {place['failures']} times since)" if place["failures"] else ")")
        for place in fields["places"]
    ]
    parts += [f"banned until {fields['banned_until']}"] if fields["banned_until"] else []
    return ", ".join(parts)


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def forget_peer(data_dir: Path, who: str, *, as_json: bool) -> int:
    """Free the label of a peer, named by label or peer id, and take its places out of the address book."""
    with _opened(data_dir) as store:
        peer_id = _known(store, who, data_dir)
        label = next((node_id for node_id, holder in store.pins().items() if holder == peer_id), None)
        places = [place.endpoint for place in store.book() if place.peer_id == peer_id]
        with store.write() as transaction:
            if label is not None:
                transaction.drop_pin(label)
            for endpoint in places:
                transaction.drop_place(endpoint.address)
    fields = {"forgot": label, "peer_id": str(peer_id), "places": [str(endpoint) for endpoint in places]}
    freed = f"the label {label} is free" if label is not None else "it had no label"
    line = f"{peer_id.short} is forgotten: {freed}, {counted(len(places), 'place')} out of the address book"
    Output().result(json_line(fields) if as_json else line)
    return 0


def ban_peer(data_dir: Path, who: str, hours: int, *, as_json: bool) -> int:
    """Leave an identity alone for so long, from the node's next start on."""
    until_ms = system_wall_ms() + hours * 3_600_000
    with _opened(data_dir) as store:
        own = load_identity(data_dir).peer_id
        # One may be banned before it was ever met; only a label must be known, or it names nobody.
        peer_id = PeerId.parse(who) if is_peer_id_text(who) else _known(store, who, data_dir)
        if peer_id == own:
            raise ConfigError(f"{peer_id.short} is the node of {data_dir} itself: it cannot be banned from itself")
        with store.write() as transaction:
            transaction.set_ban(peer_id, until_ms, Limits().bans_kept_max)
    fields = {"banned": str(peer_id), "until": _time(until_ms)}
    Output().result(json_line(fields) if as_json else f"{peer_id.short} is banned until {_time(until_ms)}")
    return 0


def unban_peer(data_dir: Path, who: str, *, as_json: bool) -> int:
    """Take a ban back."""
    with _opened(data_dir) as store:
        peer_id = PeerId.parse(who) if is_peer_id_text(who) else _known(store, who, data_dir)
        if peer_id not in store.bans():
            raise ConfigError(f"{peer_id.short} is not banned: see `p2p peers --data-dir {data_dir}`")
        with store.write() as transaction:
            transaction.drop_ban(peer_id)
    fields = {"unbanned": str(peer_id)}
    Output().result(json_line(fields) if as_json else f"{peer_id.short} is banned no longer")
    return 0


@contextmanager
def _opened(data_dir: Path) -> Iterator[Store]:
    # Opening for writing would initialise an empty data dir: there is nobody to change in one.
    open_reader(data_dir).close()
    store, _ = open_store(data_dir, entropy=system_entropy, say=complain)
    with closing(store):
        yield store


def _known(store: Store, who: str, data_dir: Path) -> PeerId:
    pins = store.pins()
    if who in pins:
        return pins[who]
    met = {*pins.values(), *(place.peer_id for place in store.book())}
    for peer_id in met:
        if who == str(peer_id):
            return peer_id
    raise ConfigError(f"{data_dir} has no label and no place of {who!r}: see `p2p peers --data-dir {data_dir}`")
