"""`import p2p` loads what every node needs and nothing else: what is optional or seldom is imported by who uses it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "sqlite3", "p2p.store.sqlite",
    "cryptography.hazmat.primitives.serialization",
    "asyncio", "httpx", "trio_websocket", "wsproto", "quart", "hypercorn", "h11", "redis", "psutil",
    "click", "rich", "hypothesis", "pytest",
    "p2p.transport.websocket_stream", "p2p.transport.http_httpx", "p2p.cli", "p2p.testing", "http_control",
)  # fmt: skip


def test_the_front_door_is_light() -> None:
    code = "import sys, p2p; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "p2p.node.node" in loaded
    assert sorted(loaded & set(HEAVY)) == []
