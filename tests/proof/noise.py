"""Handshakes between our Noise and another implementation's, from a seed: every byte and every key must agree.

PROOF_HANDSHAKES sets how many (2,000 by default), PROOF_SEED where they begin.
"""

from __future__ import annotations

import os
import random
import warnings

import pytest

from p2p.crypto.noise import CipherState, HandshakeState, NoiseStatic
from tests.unit.crypto.test_noise import PATTERNS, Oracle, exchange, name_of

HANDSHAKES = int(os.environ.get("PROOF_HANDSHAKES", "2000"))
SEED = int(os.environ.get("PROOF_SEED", "1"))


@pytest.mark.filterwarnings("ignore")
def test_two_implementations_agree() -> None:
    for number in range(HANDSHAKES):
        dice = random.Random(f"{SEED}/{number}")
        pattern, hash_name = PATTERNS[number % 3], ("SHA256", "SHA512", "BLAKE2s", "BLAKE2b")[number // 3 % 4]
        we_begin = dice.random() < 0.5
        psk = dice.randbytes(32) if "psk" in pattern else None
        prologue = dice.randbytes(dice.randrange(100))
        name, keys = name_of(pattern, hash_name), [dice.randbytes(32) for _ in range(3)]
        ours = HandshakeState(
            name,
            initiator=we_begin,
            prologue=prologue,
            static=NoiseStatic.generate(lambda _, key=keys[0]: key),
            entropy=lambda _, key=keys[1]: key,
            psk=psk,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            oracle = Oracle(name, initiator=not we_begin, prologue=prologue, static=keys[2], psk=psk)
            payloads = tuple(dice.randbytes(dice.randrange(200)) for _ in range(3))
            exchange(*((ours, oracle) if we_begin else (oracle, ours)), payloads)
        assert bytes(oracle.noise.get_handshake_hash()) == ours.handshake_hash, number
        to_responder, to_initiator = (CipherState(part) for part in ours.split())
        sending, receiving = (to_responder, to_initiator) if we_begin else (to_initiator, to_responder)
        for _ in range(dice.randrange(1, 4)):
            message = dice.randbytes(dice.randrange(100))
            assert oracle.noise.decrypt(sending.encrypt_with_ad(b"", message)) == message
            assert receiving.decrypt_with_ad(b"", oracle.noise.encrypt(message)) == message
