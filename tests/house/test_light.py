"""`import p2p` loads what every node needs and nothing else: what is optional or seldom is imported by who uses it."""

from __future__ import annotations

import subprocess
import sys

import http_control

HEAVY = (
    "sqlite3", "p2p.store.sqlite",
    "cryptography.hazmat.primitives.serialization",
    "asyncio", "httpx", "trio_websocket", "wsproto", "quart", "hypercorn", "h11", "redis", "psutil",
    "click", "rich", "hypothesis", "pytest",
    "p2p.transport.websocket_stream", "p2p.transport.http_httpx", "p2p.cli", "p2p.testing", "http_control",
)  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_front_door_is_light() -> None:
    loaded = loaded_by("import p2p")
    assert "p2p.node.node" in loaded
    assert sorted(loaded & set(HEAVY)) == []


def test_a_client_of_http_control_loads_no_server() -> None:
    loaded = loaded_by("from http_control import new_token")
    assert "http_control.files" in loaded
    assert sorted(loaded & {"quart", "hypercorn", "http_control.app", "http_control.server"}) == []


def test_every_name_of_http_control_has_its_home() -> None:
    assert [name for name in http_control.__all__ if not hasattr(http_control, name)] == []
    assert not hasattr(http_control, "nothing")
