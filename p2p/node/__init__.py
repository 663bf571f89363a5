"""The node: one nursery that supervises listener, links, dialers, replicator and the writer of the store."""
