"""The certificates of `wss://`, read from files."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import msgspec

from p2p.errors import ConfigError

NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""What OpenSSL calls an answer that is none of TLS."""


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files for `wss://`.

    Args:
        cert: this node's certificate with its chain, for who dials it; None where it accepts no TLS.
        key: the key of `cert`; None if it stands in the same file.
        ca: who may have signed the certificates of those we dial; None for the system's authorities.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def for_listening(self) -> ssl.SSLContext:
        """The context of the accepting side. Reads files.

        Raises:
            ConfigError: there is no certificate, or it cannot be used.
        """
        if self.cert is None:
            raise ConfigError("wss:// needs a certificate to listen with: tls_cert and tls_key")
        context = _hardened(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        try:
            # An encrypted key would have OpenSSL ask on the terminal; an empty password fails instead.
            context.load_cert_chain(self.cert, self.key, password="")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            key = f"and key {self.key}" if self.key is not None else "with its key in the same file"
            raise ConfigError(f"certificate {self.cert} {key}: {_text(error)}") from None
        return context

    def for_dialling(self) -> ssl.SSLContext:
        """The context of the dialling side, which verifies certificate and host name. Reads files.

        Raises:
            ConfigError: `ca` cannot be read.
        """
        try:
            return _hardened(ssl.create_default_context(cafile=self.ca))
        except (OSError, ValueError) as error:
            raise ConfigError(f"authorities {self.ca}: {_text(error)}") from None


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _text(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
