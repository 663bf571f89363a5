"""`p2p vectors`: examples of all that goes over the wire, for tests of other implementations."""

from __future__ import annotations

import json

from p2p.cli.output import Output
from p2p.testing.vectors import document


def print_vectors() -> int:
    """Print the document."""
    Output().result(json.dumps(document(), indent=1, ensure_ascii=False))
    return 0
