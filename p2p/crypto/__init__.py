"""Keys, key exchange and seals. Nothing here knows of envelopes, sessions or peers."""

from p2p.crypto.ephemerals import Ephemerals
from p2p.crypto.identity import Identity, verify
from p2p.crypto.noise import NoiseStatic
from p2p.crypto.null import NullCrypto
from p2p.crypto.provider import Crypto, KeyPair, StandardCrypto

__all__ = ["Crypto", "Ephemerals", "Identity", "KeyPair", "NoiseStatic", "NullCrypto", "StandardCrypto", "verify"]
