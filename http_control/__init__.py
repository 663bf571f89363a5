"""HTTP control for a running node: status, live logs and metrics.

Not built yet. This package exists so that its name and its place beside `p2p` are fixed: the routes, the dashboard
and the bootstrap registry come with a later release, and until then there is nothing here to import.
"""
