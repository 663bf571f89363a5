"""The window to HTTP servers: one bounded request, one whole answer. `http_httpx` is what stands behind it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from p2p.errors import ConfigError
from p2p.limits import Limits


class HttpAnswer(NamedTuple):
    """A whole answer.

    Attributes:
        status: 200-599 without redirects.
        body: as sent, not compressed.
        server: the address that answered, "" if it cannot be told.
        client: our address of that connection, "" likewise.
    """

    status: int
    body: bytes
    server: str
    client: str


class HttpClient(Protocol):
    """What asks HTTP servers. Entered once, used by any number of tasks."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def request(self, method: Literal["GET", "POST"], url: str, body: bytes | None = None) -> HttpAnswer:
        """Ask, and return the whole answer.

        Args:
            method: the verb.
            url: http or https.
            body: JSON to send.

        Raises:
            ConnectFailed: TIMEOUT after `registry_s_max`, or REFUSED: no connection, or none that held.
            RemoteProtocolError: the answer is no HTTP, too large, compressed, or a redirect.
        """


def make_http_client(
    *, token: str | None = None, ca_file: Path | None = None, limits: Limits | None = None
) -> HttpClient:
    """Make a client by httpx, which is looked for only now.

    Args:
        token: sent as `Authorization: Bearer …`; None sends none.
        ca_file: PEM of the authorities to trust for https instead of the system's.
        limits: the `registry_…` bounds.

    Raises:
        ConfigError: httpx is not installed.
    """
    try:
        from p2p.transport.http_httpx import HttpxClient
    except ImportError as error:
        raise ConfigError(
            f"asking a registry needs {error.name}: pip install 'trio-p2p[bootstrap]', or '.[bootstrap]' in a clone"
        ) from None
    return HttpxClient(token=token, ca_file=ca_file, limits=limits)
