"""Habits of the house that a machine can hold."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess

import pytest

from p2p.limits import Limits
from tests.house.source import OURS, PACKAGES, ROOT, Module, module_from_text, modules

# Written in halves, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK|Not" + r"ImplementedError)\b")
BARE_IGNORE = re.compile(r"# type: " + r"ignore(?!\[[a-z-]+(, ?[a-z-]+)*\]  # \S)")
BARE_NOQA = re.compile(r"# no" + r"qa(?!: [A-Z0-9, ]+ +(# |\S))")

# Bounds that only a later release's rooms will use. An entry goes as soon as its room is built.
LIMITS_OF_LATER_RELEASES: set[str] = set()


def unfinished(module: Module) -> list[str]:
    """Lines that promise work instead of doing it."""
    if not UNFINISHED.search(module.text):
        return []
    lines = enumerate(module.text.splitlines(), 1)
    return [f"{module.path}:{n}: {line.strip()}" for n, line in lines if UNFINISHED.search(line)]


def unreasoned(module: Module) -> list[str]:
    """Ignores without a code or without a reason."""
    return [
        f"{module.path}:{n}: {line.strip()}"
        for n, line in enumerate(module.text.splitlines(), 1)
        if BARE_IGNORE.search(line) or BARE_NOQA.search(line)
    ]


def swallowed(module: Module) -> list[str]:
    """Handlers that catch everything and do nothing, or catch everything and do not say why."""
    wrong = []
    lines = module.text.splitlines()
    for node in module.nodes:
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = ast.unparse(node.type) if node.type is not None else "everything"
        if not re.search(r"\b(Exception|BaseException|everything)\b(?!Group)", caught):
            continue
        idle = all(ast.unparse(statement) in {"pass", "..."} for statement in node.body)
        raises = any(isinstance(s, ast.Raise) and s.exc is None for s in ast.walk(node))
        says_why = any("#" in line for line in lines[node.lineno - 1 : node.body[0].lineno])
        if node.type is None or idle or not (raises or says_why):
            wrong.append(f"{module.path}:{node.lineno}: except {caught}")
    return wrong


def limit_names_used(sources: tuple[Module, ...]) -> set[str]:
    """Attributes and keywords named anywhere outside limits.py."""
    names = set()
    for module in sources:
        if module.name == "p2p.limits":
            continue
        for node in module.nodes:
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
    return names


def test_nothing_is_left_unfinished() -> None:
    assert [wrong for module in modules(*OURS) for wrong in unfinished(module)] == []


def test_every_ignore_says_why() -> None:
    # In tests an ignore marks what is wrong on purpose; there the code alone says enough.
    assert [wrong for module in modules(*PACKAGES, "benchmarks") for wrong in unreasoned(module)] == []


def test_nothing_is_swallowed() -> None:
    assert [wrong for module in modules(*PACKAGES, "benchmarks") for wrong in swallowed(module)] == []


def test_every_limit_is_used() -> None:
    names = {field.name for field in dataclasses.fields(Limits)}
    assert names >= LIMITS_OF_LATER_RELEASES
    used = limit_names_used(modules("p2p"))
    assert names - used - LIMITS_OF_LATER_RELEASES == set(), "bounds that nothing keeps"
    assert used & LIMITS_OF_LATER_RELEASES == set(), "these are used now: take them off the list"


def test_nothing_is_called_utils() -> None:
    assert [m.path for m in modules(*OURS) if re.search(r"(^|/)_?(utils?|misc|common)(/|\.py$)", m.path)] == []


def test_every_module_says_what_it_is() -> None:
    silent = [m.path for m in modules(*PACKAGES, "benchmarks") if m.text.strip() and not ast.get_docstring(m.tree)]
    assert silent == []


def test_both_packages_are_typed() -> None:
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()


def test_the_shell_scripts_parse() -> None:
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


@pytest.mark.parametrize(
    "text",
    ["x  # type: " + "ignore", "x  # type: " + "ignore[attr]", "x  # no" + "qa", "x  # no" + "qa: E501"],
)
def test_a_bare_ignore_is_seen(text: str) -> None:
    assert unreasoned(module_from_text("m", text))


@pytest.mark.parametrize("text", ["x = 1  # type: " + "ignore[attr]  # why", "x = 1  # no" + "qa: E501  # why"])
def test_a_reasoned_ignore_is_not(text: str) -> None:
    assert unreasoned(module_from_text("m", text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    f()\nexcept:\n    raise",
        "try:\n    f()\nexcept Exception:\n    pass  # why",
        "try:\n    f()\nexcept (ValueError, BaseException):\n    g()",
    ],
)
def test_a_swallowing_handler_is_seen(text: str) -> None:
    assert swallowed(module_from_text("m", text))


@pytest.mark.parametrize(
    "text",
    ["try:\n    f()\nexcept ValueError:\n    pass", "try:\n    f()\nexcept BaseException:\n    g()\n    raise",
     "try:\n    f()\nexcept Exception:  # why\n    g()"],
)  # fmt: skip
def test_an_honest_handler_is_not(text: str) -> None:
    assert swallowed(module_from_text("m", text)) == []
