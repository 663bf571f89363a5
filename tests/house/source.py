"""The project's own source as the house tests see it: files, syntax trees, and who imports whom."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("p2p", "http_control")
OURS = (*PACKAGES, "tests", "benchmarks", "docs")


@dataclass(frozen=True)
class Module:
    """One Python file: its dotted name, its path from the repository's root and its text."""

    name: str
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of the tree: to walk it takes longer than to parse it, and many checks do."""
        return tuple(ast.walk(self.tree))


def module_from_text(name: str, text: str) -> Module:
    """A module that exists only as text, for tests of the checks themselves."""
    return Module(name, name.replace(".", "/") + ".py", text)


def modules(*folders: str) -> tuple[Module, ...]:
    """Every Python file under these folders of the repository."""
    return tuple(module for folder in folders for module in _modules_in(folder))


@cache
def _modules_in(folder: str) -> tuple[Module, ...]:
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        if "_build" in path.parts:
            continue
        relative = path.relative_to(ROOT)
        parts = list(relative.with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found.append(Module(".".join(parts), str(relative), path.read_text(encoding="utf-8")))
    return tuple(found)


def imported(module: Module) -> list[tuple[int, str]]:
    """Line and dotted name of everything a module imports, wherever the import stands.

    `from a import b` gives `a.b`, whether b is a module or a name in one.
    """
    names: list[tuple[int, str]] = []
    for node in module.nodes:
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}:{node.lineno}: relative import"
            assert node.module is not None
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return names


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` of an attribute chain that begins with a name, else None."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])
