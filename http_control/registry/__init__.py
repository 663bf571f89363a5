"""The bootstrap registry: an HTTP server that nodes tell where they are, and ask for others (docs/registry.md).

What is taken and shown is judged by `p2p.registry`; here are the table of entries (`table`), its two places (`sqlite`,
`redis_table`), the routes (`app`) and the running of it all (`serving`).
"""
