"""What tests of programs built on p2p need, and what the tests of p2p itself are written with.

Public, as `trio.testing` is. Nothing is imported here, so that each module brings only what it is made of:
`p2p.testing.strategies` needs Hypothesis (the extra `testing`).
"""
