"""`HttpClient` by httpx. Import this module only where httpx is wanted: it is an optional part.

It guards the node against the server (T48): an answer is at most so many bytes and is there within so many seconds,
counted from the name look-up on; redirects are not followed; nothing is decompressed. Of httpx only the transport is
used: its client would keep a stranger's cookies, and fail at each later request over one that is not ASCII.

Every request has a connection of its own: they are seconds apart, and one kept open would be one more thing that a
restarted registry breaks.

A generator that is dropped half-way is a warning under trio, and httpx is made of generators within generators. So what
ends a request early ends it from the inside: a cancellation, and never a `break`; and what is sent is no generator.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import httpx
import trio

from p2p.errors import ConfigError, ConnectFailed, P2PError, Reason, RemoteProtocolError
from p2p.limits import Limits
from p2p.text import one_line
from p2p.transport.http import HttpAnswer
from p2p.transport.tls import NO_TLS

_log = logging.getLogger("p2p.transport")

UNKNOWN_AUTHORITY: Final = (18, 19, 20, 21)
"""What OpenSSL numbers the ways in which nobody who is trusted signed a certificate."""
ERROR_BYTES_MAX: Final = 200
"""Of what a library says of a failure."""


class _Body(httpx.AsyncByteStream):
    """What a request sends."""

    def __init__(self, body: bytes) -> None:
        self._parts = [body] if body else []

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


class HttpxClient:
    """See `HttpClient` and `make_http_client`."""

    def __init__(self, *, token: str | None = None, ca_file: Path | None = None, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._ca_file = ca_file
        self._headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "trio-p2p"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def __aenter__(self) -> Self:
        # Reading the system's authorities takes tens of milliseconds.
        try:
            tls = await trio.to_thread.run_sync(self._tls)
        except RuntimeError as error:  # no thread can be started for it
            raise ConfigError(f"a registry cannot be asked: {error}") from None
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self._ca_file} holds no certificate in PEM: {error}") from None

    async def request(self, method: Literal["GET", "POST"], url: str, body: bytes | None = None) -> HttpAnswer:
        assert self._transport is not None, "enter the client before you use it"
        headers = dict(self._headers)
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            request = httpx.Request(method, url, headers=headers, content=body)
            request.stream = _Body(body or b"")
            with trio.move_on_after(self._limits.registry_s_max):
                response = await self._transport.handle_async_request(request)
                try:
                    return await self._whole(response)
                finally:
                    await response.aclose()
        except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
            raise RemoteProtocolError(f"no HTTP: {_told(error)}{_unless_tls(url)}") from None
        except httpx.ReadError as error:
            raise ConnectFailed(Reason.REFUSED, f"{_told(error)}{_unless_tls(url)}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            for cause in _causes(error):
                if isinstance(cause, ssl.SSLCertVerificationError):
                    told = f"its certificate is not accepted: {cause.verify_message}"
                    if cause.verify_code in UNKNOWN_AUTHORITY:
                        told += "; name who signed it with --tls-ca, or as ca_file"
                    raise ConnectFailed(Reason.CRYPTO, told) from None
                if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
                    what = "no TLS is spoken there: a registry without a certificate is asked with http://"
                    raise ConnectFailed(Reason.CRYPTO, what) from None
            raise ConnectFailed(Reason.REFUSED, _told(error)) from None
        except P2PError:
            raise
        except Exception as error:  # the boundary: what a library makes of a stranger's bytes may not end the node
            _log.debug("a request to %s failed in an unknown way", url, exc_info=error)
            raise RemoteProtocolError(f"no HTTP: {_told(error)}") from error
        raise ConnectFailed(Reason.TIMEOUT, f"no whole answer within {self._limits.registry_s_max:g} s")

    async def _whole(self, response: httpx.Response) -> HttpAnswer:
        if 300 <= response.status_code < 400:
            raise RemoteProtocolError(f"it answers {response.status_code}, a redirect, which is not followed")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise RemoteProtocolError("its answer is compressed, which was not asked for")
        # Now, while the connection is there for sure.
        server, client = _address(response, "server_addr"), _address(response, "client_addr")
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        body = bytearray()
        bytes_max = self._limits.registry_answer_bytes_max
        with trio.CancelScope() as reading:
            async for chunk in stream:
                body += chunk
                if len(body) > bytes_max:
                    reading.cancel()
        if len(body) > bytes_max:
            raise RemoteProtocolError(f"its answer has more than {bytes_max} bytes")
        return HttpAnswer(response.status_code, bytes(body), server, client)


def _address(response: httpx.Response, which: Literal["server_addr", "client_addr"]) -> str:
    try:
        address = response.extensions["network_stream"].get_extra_info(which)
    except OSError:  # reset meanwhile: reading the body will tell
        return ""
    return str(address[0])


def _unless_tls(url: str) -> str:
    # Who awaits TLS mostly closes on what is none, and says nothing.
    return " (where TLS is spoken, ask with https://)" if url.startswith("http:") else ""


def _told(error: BaseException) -> str:
    """What an error says; of one that says nothing, what caused it (a certificate, mostly) says it."""
    said = next((text for cause in _causes(error) if (text := str(cause))), type(error).__name__)
    return one_line(said, ERROR_BYTES_MAX)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
