"""`p2p vectors`: examples of all that goes over the wire, for tests of other implementations."""

from __future__ import annotations

import codecs
import json
import sys

from p2p.cli.output import Output
from p2p.testing.vectors import document


def print_vectors() -> int:
    """Print the document."""
    # Where standard output has other characters they are escaped as JSON does it.
    is_utf8 = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    Output().result(json.dumps(document(), indent=1, ensure_ascii=not is_utf8))
    return 0
