"""A thin client of a node's HTTP control: finds it by URL or data dir, shows the token, tells errors in one line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2p.cli.control import NEEDS
from p2p.cli.settings import UsageError
from p2p.errors import ConfigError, P2PError
from p2p.text import one_line

if TYPE_CHECKING:
    import httpx

ANSWER_S_MAX: Final = 40.0
"""Longer than the longest wait that POST connect can be asked for."""
SILENCE_S_MAX: Final = 40.0
"""Without a byte on a stream, which has a comment every 15 s."""
TOKEN_BYTES_MAX: Final = 256


class ControlFailed(P2PError):
    """The node's HTTP control cannot be reached, or answered with an error.

    Attributes:
        status: of the answer, None without one.
        answer: what the node said, empty without that.
    """

    def __init__(self, text: str, status: int | None = None, answer: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.answer = answer or {}


@dataclass(frozen=True, slots=True)
class Target:
    """Whose HTTP control is meant, as the command line says it.

    Attributes:
        url: "http://127.0.0.1:8080", with the prefix if it is another than /p2p.
        data_dir: where `control.json` and `control.token` are.
        token_file: the token, if it is elsewhere.
    """

    url: str | None
    data_dir: Path | None
    token_file: Path | None


class Control:
    """An open client. Made by `open_control`."""

    def __init__(self, client: httpx.AsyncClient, prefix: str, place: str) -> None:
        self._client = client
        self._prefix = prefix
        self._place = place

    async def get(self, path: str) -> dict[str, Any]:
        """GET a path behind the prefix and return its JSON.

        Raises:
            ControlFailed: no answer, or an error.
        """
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: object) -> dict[str, Any]:
        """POST JSON; otherwise as `get`."""
        return await self._ask("POST", path, body)

    async def put(self, path: str, body: object) -> dict[str, Any]:
        """PUT JSON; otherwise as `get`."""
        return await self._ask("PUT", path, body)

    async def delete(self, path: str) -> dict[str, Any]:
        """DELETE a path; otherwise as `get`."""
        return await self._ask("DELETE", path, None)

    async def text(self, path: str) -> str:
        """GET a path that answers with text."""
        return (await self._answer("GET", path, None)).text

    async def events(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """The data of the events of a stream, as they come.

        Raises:
            ControlFailed: it cannot be opened, or it ended.
        """
        import httpx

        try:
            async with self._client.stream("GET", self._prefix + path, timeout=SILENCE_S_MAX) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._failed(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        yield json.loads(line.removeprefix("data: "))
        except (httpx.HTTPError, ValueError) as error:
            raise ControlFailed(f"the stream of {self._place} broke: {_cause(error)}") from None
        raise ControlFailed(f"the stream of {self._place} ended")

    async def _ask(self, method: str, path: str, body: object) -> dict[str, Any]:
        response = await self._answer(method, path, body)
        try:
            value = response.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ControlFailed(f"{self._place} does not answer like a node: is another server there?")
        return value

    async def _answer(self, method: str, path: str, body: object) -> httpx.Response:
        import httpx

        try:
            response = await self._client.request(method, self._prefix + path, json=body)
        except httpx.HTTPError as error:
            raise ControlFailed(f"{self._place} cannot be reached: {_cause(error)}") from None
        if response.status_code >= 400:
            raise self._failed(response)
        return response

    def _failed(self, response: httpx.Response) -> ControlFailed:
        value = None
        try:
            value = response.json()
            text = f"{value['message']}"
            # Where to look over HTTP is no hint for somebody at a command line.
            if value.get("hint") and "see GET" not in value["hint"]:
                text += f" ({value['hint']})"
        except (ValueError, KeyError, TypeError):
            text = f"{self._place} answered {response.status_code}: is another server there?"
        if response.status_code == 401:
            text = f"{self._place} wants another token: give --token-file F, or --data-dir DIR"
        return ControlFailed(one_line(text), response.status_code, value if isinstance(value, dict) else None)


def _cause(error: Exception) -> str:
    return one_line(str(error) or type(error).__name__)


@asynccontextmanager
async def open_control(target: Target) -> AsyncIterator[Control]:
    """Open a client.

    Raises:
        UsageError: nothing says whose control is meant.
        ConfigError: the node of the data dir serves no HTTP, the token cannot be read, or a package is missing.
    """
    try:
        import httpx

        from http_control.files import read_control, read_token
    except ImportError as error:
        raise ConfigError(NEEDS.format(error.name)) from None
    if target.url is None and target.data_dir is None:
        raise UsageError("which node? give --data-dir DIR or --url URL")
    token = None
    if target.token_file is not None:
        token = _token_in(target.token_file)
    elif target.data_dir is not None:
        token = read_token(target.data_dir)
    unix, verify = None, True
    if target.url is not None:
        url = httpx.URL(target.url)
        if url.scheme not in {"http", "https"} or not url.host:
            raise UsageError(f"--url {target.url!r}: write http://HOST:PORT")
        base, prefix = f"{url.scheme}://{url.netloc.decode()}", url.path.rstrip("/") or "/p2p"
    else:
        assert target.data_dir is not None
        control = read_control(target.data_dir)
        unix, prefix = control.unix, control.prefix
        base = "http://localhost" if unix is not None else _reachable(control.urls)
        # The certificate is for the name that others use; here it is this machine, by the word of a file of ours.
        verify = False
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    transport = httpx.AsyncHTTPTransport(uds=unix, verify=verify)
    place = f"unix:{unix}" if unix is not None else base
    async with httpx.AsyncClient(base_url=base, headers=headers, transport=transport, timeout=ANSWER_S_MAX) as client:
        yield Control(client, prefix, place)


def _reachable(urls: list[str]) -> str:
    """The first of a server's addresses, as somebody on the same machine asks for it."""
    if not urls:
        raise ConfigError("control.json names no address: start the node again")
    return urls[0].replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _token_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(TOKEN_BYTES_MAX).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(one_line(f"--token-file {path}: {error}")) from None
