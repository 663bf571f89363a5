"""`import p2p` loads nothing but what is asked of it, a node what every node needs, and what is optional or seldom is
imported by who uses it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import http_control
import p2p
from tests.house.source import ROOT

HEAVY = (
    "sqlite3", "p2p.store.sqlite",
    "cryptography.hazmat.primitives.serialization",
    "asyncio", "httpx", "trio_websocket", "wsproto", "quart", "hypercorn", "h11", "redis", "psutil",
    "click", "rich", "hypothesis", "pytest",
    "json", "p2p.node.bootstrap", "p2p.node.discovery", "p2p.registry", "p2p.store.keys", "p2p.transport.udp",
    "p2p.transport.websocket_stream", "p2p.transport.http_httpx", "p2p.cli", "p2p.testing", "http_control",
    "p2p.store.memory", "p2p.node.follow", "p2p.node.options",
)  # fmt: skip

MODULES_MAX = 112
"""Of ours in the import of a node: each takes 0.2 to 1 % of its time. More of them are for a reason, and tell it."""

PUBLIC_NAMED_TUPLES = {"p2p.envelope", "p2p.framing", "p2p.replication.batch"}

COMPILERS = """
import sys, msgspec, trio, cryptography.hazmat.primitives.ciphers.aead

def heard(event, arguments):
    if event == "compile" and not str(arguments[1]).endswith(".py"):
        frame = sys._getframe(1)
        while not frame.f_code.co_filename.startswith(HOME) or frame.f_globals["__name__"] == "p2p.values":
            frame = frame.f_back
        print("compiled by", frame.f_globals["__name__"])

import p2p
HOME = p2p.__path__[0]
sys.addaudithook(heard)
p2p.open_node
"""


def loaded_by(statement: str) -> set[str]:
    return set(printed_by(f"import sys; {statement}; print('\\n'.join(sys.modules))"))


def printed_by(code: str) -> list[str]:
    # Coverage, which follows processes, would load modules of its own.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=plain)
    return done.stdout.splitlines()


def test_the_front_door_is_light() -> None:
    loaded = loaded_by("import p2p")
    assert [name for name in loaded if name.startswith("p2p")] == ["p2p"]


def test_a_node_is_light() -> None:
    loaded = loaded_by("import p2p; p2p.open_node")
    assert "p2p.node.node" in loaded
    assert sorted(loaded & set(HEAVY)) == []
    assert len([name for name in loaded if name.startswith("p2p")]) <= MODULES_MAX


def test_only_public_named_tuples_compile_anything_when_a_node_is_imported() -> None:
    # As a dataclass does for each method (`p2p.values` does not), and a TypedDict for each field.
    told = printed_by(COMPILERS)
    assert {line.removeprefix("compiled by ") for line in told} == PUBLIC_NAMED_TUPLES


def test_a_page_of_help_needs_no_event_loop() -> None:
    loaded = loaded_by("from p2p.cli.app import run_command_line as run; run(['wal', '--help'])")
    assert sorted(loaded & {"trio", "cryptography", "sqlite3", "rich"}) == []


@pytest.mark.parametrize("command", ["wal digest", "wal tail", "wal heads", "wal verify", "peers", "id"])
def test_what_only_looks_into_a_data_dir_needs_no_event_loop(command: str, tmp_path: Path) -> None:
    arguments = [*command.split(), "--data-dir", str(tmp_path)]
    loaded = loaded_by(f"from p2p.cli.app import run_command_line as run; run({arguments})")
    assert "p2p.store.keys" in loaded
    assert sorted(loaded & {"trio", "p2p.node", "httpx"}) == []


def test_every_name_of_the_front_door_comes_from_where_a_type_checker_is_told() -> None:
    tree = ast.parse((ROOT / "p2p" / "__init__.py").read_text())
    told = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("p2p"):
            told |= {alias.name: (node.module, alias.name) for alias in node.names}
    assert set(told) == set(p2p.__all__)
    for name, (home, inner) in told.items():
        module = import_module(home)
        assert getattr(p2p, name) is getattr(module, inner, None)
    assert not hasattr(p2p, "nothing")


def test_a_client_of_http_control_loads_no_server() -> None:
    loaded = loaded_by("from http_control import new_token")
    assert "http_control.files" in loaded
    assert sorted(loaded & {"quart", "hypercorn", "http_control.app", "http_control.server"}) == []


def test_every_name_of_http_control_has_its_home() -> None:
    assert [name for name in http_control.__all__ if not hasattr(http_control, name)] == []
    assert not hasattr(http_control, "nothing")
