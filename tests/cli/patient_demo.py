"""`p2p` whose demo gives up later. Its minute is for a machine that has time for it; here it is a bound on hanging.

    python -m tests.cli.patient_demo demo …
"""

from __future__ import annotations

from p2p.cli import demo, demo_nodes, main

if __name__ == "__main__":
    demo.DEMO_S_MAX = 110.0  # type: ignore[misc]
    demo_nodes.START_S_MAX = 100.0  # type: ignore[misc]
    demo_nodes.LIFE_S = 170  # type: ignore[misc]
    main()
