"""`p2p id`: print or make an identity, make a network key."""

from __future__ import annotations

from pathlib import Path

from p2p.cli.output import Output, complain, json_line
from p2p.errors import ConfigError
from p2p.store.keys import KEY_FILE, STORE_FILE, load_identity, new_network_key, open_store, renew_identity
from p2p.windows import system_entropy


def print_identity(data_dir: Path, *, as_json: bool) -> int:
    """Print the peer id of an existing data dir."""
    if not (data_dir / KEY_FILE).exists() and not (data_dir / STORE_FILE).exists():
        raise ConfigError(f"{data_dir} holds no identity: `p2p id --new --data-dir {data_dir}` makes one")
    return _print(str(load_identity(data_dir).peer_id), as_json)


def new_identity(data_dir: Path, *, as_json: bool) -> int:
    """Make a data dir with an identity, or give an existing one a new identity. Prints the new peer id."""
    if (data_dir / KEY_FILE).exists() or (data_dir / STORE_FILE).exists():
        identity, old = renew_identity(data_dir, entropy=system_entropy)
        complain(
            f"{data_dir} was {old}; that log stays readable and grows no more "
            "(what a fork cut off: `p2p wal tail --beyond-fork`)"
        )
    else:
        store, identity = open_store(data_dir, entropy=system_entropy, say=complain)
        store.close()
    return _print(str(identity.peer_id), as_json)


def write_network_key(path: Path, *, as_json: bool) -> int:
    """Write a new network key to a file that only its owner can read."""
    new_network_key(path, entropy=system_entropy)
    line = f"wrote a network key to {path}: copy it to every member, show it to nobody else"
    Output().result(json_line({"network_key_file": str(path)}) if as_json else line)
    return 0


def _print(peer_id: str, as_json: bool) -> int:
    Output().result(json_line({"peer_id": peer_id}) if as_json else peer_id)
    return 0
