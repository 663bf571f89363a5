"""docs/vix.md: the lines of curl, as they stand there, against a node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import trio

import p2p
from tests.http.controlled import TOKEN, controlled
from tests.programs import find_program, needs

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "vix.md").read_text(encoding="utf-8")
SETTING, LINES = 2, 9


@needs("curl")
async def test_the_lines_of_curl_run_as_they_stand_on_the_page(tmp_path: Path) -> None:
    async with (
        p2p.open_node(node_id="B") as other,
        p2p.open_node(node_id="A") as node,
        controlled(node) as a,
    ):
        (tmp_path / "control.token").write_text(TOKEN)
        block = re.search(r"```sh\n(TOKEN=.*?)```", PAGE, re.DOTALL)
        assert block is not None
        script = block[1].replace("~/.local/state/p2p/A/", f"{tmp_path}/").replace("http://127.0.0.1:8080", a.url)
        script = script.replace("9002", str(other.endpoints[0].port)).replace("curl ", f"{find_program('curl')} -sS ")
        lines = script.splitlines()
        assert len(lines) == LINES
        # One process for all of them: after each answer its status, in a line of its own.
        lines[SETTING:] = [f"{line} -w '\\n%{{http_code}}\\n'" for line in lines[SETTING:]]
        with trio.fail_after(60):
            done = await trio.run_process(["sh", "-euc", "\n".join(lines)], capture_stdout=True, capture_stderr=True)
    parts = re.split(r"\n(\d{3})\n", done.stdout.decode())
    answers = dict(zip(("ping", "status", "peers", "connect", "again", "logs", "hook"), parts[::2], strict=False))
    assert [int(code) for code in parts[1::2]] == [200, 200, 200, 200, 409, 200, 501]
    value: dict[str, Any] = {name: json.loads(text) for name, text in answers.items() if name != "logs"}
    assert value["ping"] == {"ok": True, "module": "p2p_http", "pong": True}
    assert (value["status"]["node_id"], value["peers"]["peers"]) == ("A", [])
    assert value["connect"]["peer"]["node_id"] == "B"
    assert (value["again"]["ok"], value["again"]["error"]) == (False, "already_connected")
    assert "connected to B" in answers["logs"]
    assert value["hook"]["error"] == "not_implemented"
