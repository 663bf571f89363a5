"""Few dependencies, each with its reason, and none installed that was not seen before (T70)."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.source import ROOT

LOCKED = re.compile(
    r"^([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)(?: ; .*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def wanted(*extras: str) -> list[Requirement]:
    """What the project asks for with these extras, its own extras resolved."""
    optional = project()["optional-dependencies"]
    found = [Requirement(text) for text in project()["dependencies"]]
    queue = list(extras)
    while queue:
        for requirement in map(Requirement, optional[queue.pop()]):
            if requirement.name == "trio-p2p":
                queue += requirement.extras
            else:
                found.append(requirement)
    return found


def locked(name: str) -> dict[str, str]:
    """Name and version of every entry of a lock that has a hash."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {canonicalize_name(package): version for package, version, _ in LOCKED.findall(text)}


@pytest.mark.parametrize(("name", "extras"), [("demo", ["cli"]), ("dev", ["dev"])])
def test_T70_the_lock_has_everything_that_is_asked_for(name: str, extras: list[str]) -> None:
    versions = locked(name)
    missing = [
        f"{requirement}: {versions.get(canonicalize_name(requirement.name), 'absent')}"
        for requirement in wanted(*extras)
        if not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0"))
    ]
    assert missing == [], "run `make lock`"


@pytest.mark.parametrize("name", ["demo", "dev"])
def test_T70_nothing_in_a_lock_is_without_a_hash(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    rest = LOCKED.sub("", text)
    assert [line for line in rest.splitlines() if line.strip() and not line.startswith("#")] == []
    assert "hatchling" in locked(name), "what builds the package is locked, too"


def test_T70_a_node_needs_three_packages_and_says_why() -> None:
    assert [Requirement(text).name for text in project()["dependencies"]] == ["trio", "cryptography", "msgspec"]
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("\ndependencies = [") : text.index("]", text.index("\ndependencies = ["))]
    assert all("#" in line for line in block.splitlines()[2:] if line.strip())


def test_T70_make_installs_by_the_locks_alone() -> None:
    makefile = (ROOT / "Makefile").read_text()
    installs = [line for line in makefile.splitlines() if "$(PIP)" in line and "$*" in line]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
