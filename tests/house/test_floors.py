"""The floor plan, held by walking every import: a room sees lower floors and its own folder, nothing else.

Imports under `if TYPE_CHECKING:` and inside functions count like any other: a step upstairs that only a type checker
sees is still knowledge of the floor above.
"""

from __future__ import annotations

import ast
import sys

import pytest

from tests.house.source import Module, dotted, imported, module_from_text, modules

# The windows stand half a step below floor 4: its rooms are handed them, and floors 0-3 may not know them.
FLOORS = {
    "p2p.errors": 0,
    "p2p.limits": 0,
    "p2p.ids": 0,
    "p2p.text": 0,
    "p2p.values": 0,
    "p2p.binary": 1,
    "p2p.framing": 1,
    "p2p.envelope": 1,
    "p2p.msg": 1,
    "p2p.strict_json": 1,
    "p2p.pack": 1,
    "p2p.crypto": 2,
    "p2p.policy": 2,
    "p2p.session": 3,
    "p2p.replication": 3,
    "p2p.registry": 3,
    "p2p.relay": 3,
    "p2p.windows": 3.5,
    "p2p.store": 4,
    "p2p.transport": 4,
    "p2p.peer": 5,
    "p2p.node": 6,
    "p2p.runtime": 7,
    "p2p.testing": 7,
    "p2p": 7.5,
    "p2p.cli": 8,
    "p2p.__main__": 9,
}
PURE_FLOOR_MAX = 3
IMPURE = {
    "trio", "socket", "os", "time", "random", "sqlite3", "logging",
    "asyncio", "threading", "subprocess", "select", "selectors", "secrets", "pathlib", "tempfile",
}  # fmt: skip
CORE_DEPENDENCIES = {"trio", "cryptography", "msgspec", "outcome"}

# Who may name the world: clock, entropy and worker threads in one file, sockets in the transport, files in the store.
WORLD = {"time", "random", "secrets", "socket", "trio.to_thread", "trio.socket", "os.urandom", "datetime.datetime.now"}
# Simulated worlds have chance of their own, from a seed.
WINDOWS = ("p2p.windows", "p2p.transport", "p2p.store", "p2p.testing.dice", "p2p.testing.scheduler")


def room_of(name: str) -> str | None:
    """The room a module of ours belongs to, by the longest name in the floor plan."""
    parts = name.split(".")
    while parts:
        room = ".".join(parts)
        if room in FLOORS and (room != "p2p" or name == "p2p"):
            return room
        parts.pop()
    return None


def steps_upstairs(module: Module) -> list[str]:
    """Every import of a module that the floor plan forbids."""
    own = room_of(module.name)
    assert own is not None, f"{module.path} has no floor: add its room to FLOORS"
    wrong = []
    for line, name in imported(module):
        if name.split(".")[0] == "http_control" and own != "p2p.cli":
            wrong.append(f"{module.path}:{line}: only the command line knows http_control")
        if name.split(".")[0] != "p2p":
            continue
        # `from p2p import open_node` names no room: that is the front door itself.
        other = room_of(name) or "p2p"
        siblings = other == own or (own.count(".") == 1 == other.count(".") and _is_file(own) and _is_file(other))
        if not (FLOORS[other] < FLOORS[own] or (siblings and FLOORS[other] == FLOORS[own])):
            wrong.append(f"{module.path}:{line}: floor {FLOORS[own]} imports {name} of floor {FLOORS[other]}")
    return wrong


def _is_file(room: str) -> bool:
    return any(module.name == room and not module.path.endswith("__init__.py") for module in modules("p2p"))


def impurities(module: Module) -> list[str]:
    """What a pure floor must not import."""
    return [f"{module.path}:{line}: imports {name}" for line, name in imported(module) if name.split(".")[0] in IMPURE]


def glances_outside(module: Module) -> list[str]:
    """Clock, entropy, sockets or threads named elsewhere than in the windows."""
    wrong = [
        f"{module.path}:{line}: imports {name}"
        for line, name in imported(module)
        if any(name == world or name.startswith(world + ".") for world in WORLD)
    ]
    for node in module.nodes:
        if isinstance(node, ast.Attribute):
            name = dotted(node)
            if name in WORLD or name in {"datetime.now", "datetime.utcnow", "datetime.datetime.utcnow"}:
                wrong.append(f"{module.path}:{node.lineno}: names {name}")
    return wrong


def test_every_room_is_on_the_floor_plan() -> None:
    assert [m.path for m in modules("p2p") if room_of(m.name) is None] == []


def test_no_step_upstairs() -> None:
    assert [wrong for module in modules("p2p") for wrong in steps_upstairs(module)] == []


def test_floors_0_to_3_are_pure() -> None:
    pure = [m for m in modules("p2p") if FLOORS[room_of(m.name) or "p2p"] <= PURE_FLOOR_MAX]
    assert pure
    assert [wrong for module in pure for wrong in impurities(module)] == []


def test_only_the_windows_name_the_world() -> None:
    inside = [m for m in modules("p2p") if not m.name.startswith(WINDOWS)]
    assert [wrong for module in inside for wrong in glances_outside(module)] == []


def test_http_control_sees_only_the_front_door() -> None:
    wrong = []
    for module in modules("http_control"):
        for line, name in imported(module):
            if name.startswith("p2p.") and name not in {f"p2p.{public}" for public in _public_names()}:
                wrong.append(f"{module.path}:{line}: {name}")
    assert wrong == []


def test_core_imports_only_core_dependencies() -> None:
    wrong = []
    for module in modules("p2p"):
        room = room_of(module.name)
        if room in {"p2p.cli", "p2p.testing"}:
            continue
        for line, name in imported(module):
            top = name.split(".")[0]
            optional = {"trio_websocket", "httpx"} if room == "p2p.transport" else set()
            if top not in sys.stdlib_module_names | CORE_DEPENDENCIES | optional | {"p2p", "__future__"}:
                wrong.append(f"{module.path}:{line}: {name}")
    assert wrong == []


def _public_names() -> list[str]:
    import p2p

    return list(p2p.__all__)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p2p.framing", "import p2p.session.session"),
        ("p2p.crypto.noise", "from p2p.policy import buckets"),
        ("p2p.errors", "def f():\n    from p2p.node import node"),
        ("p2p.store.sqlite", "from p2p.transport import base"),
        ("p2p.replication.sync", "from p2p.windows import Clock"),
        ("p2p.peer.connection", "import typing\nif typing.TYPE_CHECKING:\n    from p2p.node.node import Node"),
        ("p2p.node.node", "from p2p import open_node"),
        ("p2p.node.node", "import http_control"),
    ],
)
def test_a_step_upstairs_is_seen(name: str, text: str) -> None:
    assert len(steps_upstairs(module_from_text(name, text))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p2p.envelope", "from p2p import binary\nfrom p2p.errors import P2PError"),
        ("p2p.crypto.noise", "from p2p.crypto.provider import Crypto"),
        ("p2p.transport.tcp", "from p2p.windows import Clock"),
        ("p2p.cli.run", "import p2p\nfrom p2p import NodeConfig"),
    ],
)
def test_a_step_downstairs_is_not(name: str, text: str) -> None:
    assert steps_upstairs(module_from_text(name, text)) == []


@pytest.mark.parametrize("text", ["import time", "from os import path", "import trio.abc", "def f():\n import sqlite3"])
def test_an_impurity_is_seen(text: str) -> None:
    assert impurities(module_from_text("p2p.session.session", text))


@pytest.mark.parametrize(
    "text",
    [
        "import time", "from random import random", "import trio\ntrio.to_thread.run_sync(f)",
        "from trio import to_thread",
        "import os\nos.urandom(8)", "from os import urandom", "import trio\ntrio.socket.socket()",
        "from datetime import datetime\ndatetime.now()",
    ],
)  # fmt: skip
def test_a_glance_outside_is_seen(text: str) -> None:
    assert glances_outside(module_from_text("p2p.node.node", text))
