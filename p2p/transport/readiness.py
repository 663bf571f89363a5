"""Waiting for any of several sockets: one door may have an IPv4 half and an IPv6 half."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress

import trio


async def wait_any_readable(socks: Sequence[socket.socket]) -> None:
    """Wait until one of the sockets can be read or was closed; a single one raises `trio.ClosedResourceError`."""
    if len(socks) == 1:
        await trio.lowlevel.wait_readable(socks[0])
        return

    @trio.lowlevel.enable_ki_protection
    async def wait(sock: socket.socket) -> None:
        with suppress(trio.ClosedResourceError):  # the caller's next read sees it too; here it would come in a group
            await trio.lowlevel.wait_readable(sock)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for sock in socks:
            nursery.start_soon(wait, sock)
