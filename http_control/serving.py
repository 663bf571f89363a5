"""The servers of one node: where they listen, for the thin clients, and for the guard of POST connect.

Several may serve one node, each with options of its own. What they have to know of each other is kept with the node
(`node.extensions`), so it is forgotten with it.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import trio

import p2p
from http_control.files import ControlFile, remove_control, write_control
from http_control.sockets import Bind

_log = logging.getLogger("p2p.http")

EXTENSION: Final = "http_control"


class Serving:
    """Where the servers of one node listen. One per node: `Serving.of`.

    Args:
        node: the node.
    """

    def __init__(self, node: p2p.Node) -> None:
        self._data_dir = node.config.data_dir
        self._places: list[ControlFile] = []
        self._written: ControlFile | None = None
        self._writing = trio.Lock()

    @classmethod
    def of(cls, node: p2p.Node) -> Serving:
        """That of a node."""
        found = node.extensions.get(EXTENSION)
        if not isinstance(found, cls):
            found = node.extensions[EXTENSION] = cls(node)
        return found

    @property
    def ports(self) -> frozenset[int]:
        """The TCP ports that they listen on."""
        return frozenset(port for place in self._places for url in place.urls if (port := urlsplit(url).port))

    async def add(self, urls: list[str], bind: Bind, prefix: str) -> ControlFile:
        """One more listens; the thin clients are told of the newest.

        Raises:
            ConfigError: control.json cannot be written.
        """
        unix = bind.unix
        path = None if unix is None else os.fspath(unix.absolute())
        place = ControlFile(urls=[] if unix is not None else urls, unix=path, prefix=prefix, pid=os.getpid())
        self._places.append(place)
        try:
            await self._tell()
        except BaseException:
            self._places.remove(place)
            raise
        return place

    async def remove(self, place: ControlFile, within_s: float) -> None:
        """One is gone; the thin clients are told of the newest that is left. Never raises.

        Args:
            place: as `add` returned it.
            within_s: a disk that hangs for longer is left alone.
        """
        self._places.remove(place)
        with trio.move_on_after(within_s, shield=True) as patience:
            try:
                await self._tell(may_be_abandoned=True)
            except (p2p.ConfigError, RuntimeError) as error:  # RuntimeError: no thread can be started for it
                _log.warning("where HTTP control is served by now cannot be told: %s", error)
        if patience.cancelled_caught:
            _log.warning("where HTTP control is served by now cannot be told: the disk took over %g s", within_s)

    async def _tell(self, *, may_be_abandoned: bool = False) -> None:
        """Have control.json say what is so. What another process wrote there since is left alone."""
        if self._data_dir is None:
            return
        async with self._writing:
            newest = self._places[-1] if self._places else None
            if newest is not None and newest != self._written:
                write = partial(write_control, self._data_dir, newest)
                await trio.to_thread.run_sync(write, abandon_on_cancel=may_be_abandoned)
            elif newest is None and self._written is not None:
                remove = partial(remove_control, self._data_dir, self._written)
                await trio.to_thread.run_sync(remove, abandon_on_cancel=may_be_abandoned)
            self._written = newest
