"""Byte streams between nodes, and nothing about what the bytes mean.

Whatever carries a session (TCP, WebSocket, the in-memory network of tests) is a `LinkStream` here, and one contract
suite runs against each of them. Errors are translated at this boundary, once: a dial fails with `ConnectFailed`, a
taken port is `AddressInUse`, a stream raises what trio's streams raise.
"""
