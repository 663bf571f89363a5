"""The node: one nursery that supervises listener, links, dialers, replicator and the writer of the store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2p.node import options as options


def __getattr__(name: str) -> object:
    """`options` is imported by who asks for the type hints of `open_node`, which name it here, and not by a node."""
    if name == "options":
        return import_module("p2p.node.options")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
