"""A process that makes a data dir, and says a line before it does. It is killed.

    python -m tests.crash.maker DIR
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from p2p.store.keys import open_store
from tests.crash.appender import say

if __name__ == "__main__":
    say("")
    open_store(Path(sys.argv[1]), entropy=os.urandom, say=say)[0].close()
