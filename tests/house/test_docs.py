"""What the documentation says of names, flags and numbers is so."""

from __future__ import annotations

import ast
import os
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from p2p.cli.app import cli
from tests.house.source import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_compile(page: object) -> None:
    text = page.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_example_of_the_page_of_messages_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", text_of("docs/messages.md"), re.DOTALL | re.MULTILINE)
    exec(compile(example, "docs/messages.md", "exec"), {})
    assert capsys.readouterr().out == "a b'hello'\nb'noon'\n"


def test_the_program_of_the_page_counts_each_sale_once(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", text_of("docs/programs.md"), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "till"}
    exec(compile(example, "docs/programs.md", "exec"), names)
    (tmp_path / "home.key").write_text("ab" * 32 + "\n")

    def counted() -> tuple[int, int]:
        with closing(sqlite3.connect(tmp_path / "sales.sqlite")) as db:
            pieces, seq = db.execute("SELECT (SELECT sum(pieces) FROM sold), (SELECT max(seq) FROM done)").fetchone()
        return pieces or 0, seq or 0

    async def life() -> None:
        before = counted()[1] if (tmp_path / "sales.sqlite").exists() else 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names["main"], tmp_path, "till")
            with trio.fail_after(60):
                while not ((tmp_path / "sales.sqlite").exists() and (tmp_path / "node" / "log.sqlite").exists()):
                    await trio.sleep(0.01)
                while counted()[1] <= before:
                    await trio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

    trio.run(life)
    assert counted() == (1, 1)
    with closing(sqlite3.connect(tmp_path / "node" / "log.sqlite")) as store:
        assert store.execute("DELETE FROM cursors").rowcount > 0
        store.commit()
    trio.run(life)
    assert counted() == (2, 2), "what came again was counted once"


def test_the_flags_of_running_a_node_are_those_of_the_page() -> None:
    table = text_of("docs/cli.md").split("## One configuration")[0]
    rows = "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `--"))
    described = set(re.findall(r"--[a-z-]+", rows))
    real = {option for parameter in cli.params for option in parameter.opts if option.startswith("--")}
    assert described == real - {"--version"}


def test_the_commands_are_those_of_the_page() -> None:
    text = text_of("docs/cli.md")
    wal = cli.commands["wal"]
    assert isinstance(wal, click.Group)
    assert set(re.findall(r"^    p2p wal (\w+)", text, re.MULTILINE)) == set(wal.commands)
    for command in cli.commands:
        assert f"p2p {command}" in text


def test_the_sentences_of_the_contract_are_numbered_without_gaps() -> None:
    found = re.findall(r"^- \*\*(\d+)\.(\d+)\*\* ", text_of("docs/contract.md"), re.MULTILINE)
    numbers = [(int(section), int(sentence)) for section, sentence in found]
    sections = sorted({section for section, _ in numbers})
    assert numbers == [
        (section, sentence)
        for section in sections
        for sentence in range(1, 1 + sum(1 for other, _ in numbers if other == section))
    ]
    assert sections == list(range(1, 1 + len(sections)))


def test_what_the_contract_calls_later_is_not_there_yet() -> None:
    import p2p

    sentences = re.split(r"^(?=- |#)", text_of("docs/contract.md"), flags=re.MULTILINE)
    later = [sentence for sentence in sentences if re.match(r"- \*\*[\d.]+\*\* \*\(later\)\*", sentence)]
    names = {name for sentence in later for name in re.findall(r"`(?:\w+\.)?(\w+)", sentence)}
    there = {name for name in names if hasattr(p2p, name) or hasattr(p2p.Node, name)}
    assert there <= {"NodeConfig"}


def test_every_page_is_in_the_table_of_contents() -> None:
    toctree = re.search(r"```{toctree}\n.*?\n\n(.*?)```", text_of("docs/index.md"), re.DOTALL)
    assert toctree is not None
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= set(toctree[1].split())


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^(\w+):", text_of("Makefile"), re.MULTILINE))
    assert set(re.findall(r"make (\w+)", text_of("README.md"))) <= targets | {"a"}
