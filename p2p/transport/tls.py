"""TLS as a pump: ciphertext in, plaintext out, and back; no socket and no waiting.

`trio.SSLStream` would do, but for one thing: a send that is cancelled dooms it, and with it the direction that was not
sending. Here whatever was encrypted waits in the caller's hands until it is sent, so nothing is ever lost half way.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import msgspec

from p2p.errors import ConfigError

_READ_BYTES: Final = 64 * 1024


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
            raise ConfigError(f"certificate {self.cert} and key {self.key or self.cert}: {_text(error)}") from None
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


class TlsPump:
    """One TLS connection without its socket.

    Args:
        context: of the side that this is.
        server_name: whom the certificate must name, on the dialling side; None on the accepting one.

    Attributes:
        is_shaken: whether the handshake is done, so that there may be plaintext.
        is_over: whether the other side said that nothing follows, or its stream ended.
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "is_over", "is_shaken")

    def __init__(self, context: ssl.SSLContext, server_name: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self.is_shaken = False
        self.is_over = False

    def receive(self, data: bytes | bytearray) -> bytes:
        """Take ciphertext (b"" for the end of the stream) and return the plaintext that it completes.

        Raises:
            ssl.SSLError: it is not what TLS allows, or the certificate is not accepted.
        """
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        plain = bytearray()
        try:
            if not self.is_shaken:
                self._object.do_handshake()
                self.is_shaken = True
            while chunk := self._object.read(_READ_BYTES):
                plain += chunk
            self.is_over = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.is_over = True
        return bytes(plain)

    def begin(self) -> None:
        """Begin the handshake of the dialling side."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return

    def encrypt(self, data: bytes) -> None:
        """Encrypt, once the handshake is done."""
        self._object.write(data)

    def finish(self) -> None:
        """Tell the other side that nothing follows."""
        try:
            self._object.unwrap()
        except ssl.SSLError:  # it wants to read the answer, which we do not wait for
            return

    def data_to_send(self) -> bytes:
        """Ciphertext to be sent; whoever takes it sends it."""
        return self._outgoing.read()
