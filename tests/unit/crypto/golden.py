"""Write tests/vectors/noise_golden.json: `python -m tests.unit.crypto.golden` from the top of the repository.

The transcripts come from fixed keys, so writing them again changes nothing unless the wire has changed.
"""

from __future__ import annotations

import json

from tests.unit.crypto.test_noise import PATTERNS, ROOT, exchange, name_of, pair


def main() -> None:
    golden = {}
    for pattern in PATTERNS:
        a, b = pair(pattern)
        messages = exchange(a, b)
        golden[name_of(pattern)] = {
            "messages": [message.hex() for message in messages],
            "handshake_hash": a.handshake_hash.hex(),
            "keys": [key.hex() for key in a.split()],
        }
    (ROOT / "tests/vectors/noise_golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
