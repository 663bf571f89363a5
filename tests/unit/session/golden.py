"""Write tests/vectors/session_golden.json: `python -m tests.unit.session.golden` from the top of the repository.

One whole conversation, byte for byte, per handshake and cipher. Keys, nonces and time are fixed, so writing it again
changes nothing unless the wire has changed; then older nodes no longer understand newer ones.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2p import msg
from p2p.errors import Reason
from p2p.session import Session, State
from tests.unit.session.helpers import DATA, NETWORK_KEY, config, drain, start

PATH = Path(__file__).parents[3] / "tests/vectors/session_golden.json"
CASES = {
    "XX aes256gcm": (None, "aes256gcm,chacha20poly1305"),
    "XXpsk0 chacha20poly1305": (NETWORK_KEY, "chacha20poly1305"),
}


def record(network_key: bytes | None, cipher: str) -> list[dict[str, str]]:
    """Hold the conversation; return who wrote which bytes, in order."""
    offered = (("bundle", "1"), ("cipher", cipher))
    a, b = (
        config(name, network_key=network_key, network_name="golden", capabilities=offered, limits_rekey_every=3)
        for name in "ab"
    )
    i, r = start(a, b)
    steps: list[dict[str, str]] = []

    def turn(sender: Session, receiver: Session) -> None:
        data = sender.data_to_send()
        steps.append({"from": sender.role.name.lower(), "bytes": data.hex()})
        receiver.receive_data(data, 0.0)
        drain(receiver)

    turn(i, r)
    turn(r, i)
    turn(i, r)
    r.send(msg.MessageType.WAL_HEADS, msg.WalHeads().encode())
    turn(r, i)
    i.send(DATA, msg.Data("chat", body=b"a lone one").encode(), flags=4)
    turn(i, r)
    i.send(DATA, msg.Data("chat", body=b"one of two").encode())
    i.send(msg.MessageType.WAL_ACK, msg.WalAck(7).encode())
    turn(i, r)
    i.send(DATA, msg.Data("bulk", body=bytes(300)).encode())
    i.ping(0.0)
    turn(i, r)
    turn(r, i)
    # Past the first rekey of this direction.
    i.send(DATA, msg.Data("chat", body=b"under another key").encode())
    turn(i, r)
    i.goodbye(Reason.CLOSED, "done")
    turn(i, r)
    turn(r, i)
    assert i.state is r.state is State.ENDED
    assert i.cipher == r.cipher
    assert "XX " + i.cipher in CASES or "XXpsk0 " + i.cipher in CASES
    return steps


def main() -> None:
    golden = {name: record(*case) for name, case in CASES.items()}
    PATH.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
