"""Ephemeral keys of one node, one of them made ahead of need.

A handshake needs a fresh key pair, which takes about 60 µs, while the other side waits. Made at a moment when this side
waits for the other anyway, or neither for the other, it costs no time: `refill` is for such moments. A key is given out
once and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Callable

from p2p.crypto.noise import NoiseStatic


class Ephemerals:
    """Where a node's handshakes take their keys from.

    Args:
        entropy: source of random bytes; asked for 32 at a time.
    """

    __slots__ = ("_entropy", "_spare")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._spare: NoiseStatic | None = None

    def take(self) -> NoiseStatic:
        """A key pair that nobody had before and nobody gets again."""
        spare, self._spare = self._spare, None
        return spare if spare is not None else NoiseStatic.generate(self._entropy)

    def refill(self) -> None:
        """Make the next one if there is none: there is time."""
        if self._spare is None:
            self._spare = NoiseStatic.generate(self._entropy)
