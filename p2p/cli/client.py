"""A thin client of a node's HTTP control: finds it by URL or data dir, shows the token, tells errors in one line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2p.cli.control import CONTROL_FILE, NEEDS
from p2p.cli.settings import UsageError
from p2p.errors import ConfigError, P2PError
from p2p.store.keys import holder_of
from p2p.text import one_line

if TYPE_CHECKING:
    import ssl

    import httpx

    from http_control.files import ControlFile

ANSWER_S_MAX: Final = 40.0
"""Longer than the longest wait that POST connect can be asked for."""
SILENCE_S_MAX: Final = 40.0
"""Without a byte on a stream, which has a comment every 15 s."""
TOKEN_BYTES_MAX: Final = 256


class NotServed(ConfigError):
    """No node serves HTTP control from a data dir."""


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
        ca: certificates that may vouch for an https URL, beside those that the system knows.
    """

    url: str | None
    data_dir: Path | None
    token_file: Path | None
    ca: Path | None = None


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
        if response.is_redirect:
            raise ControlFailed(f"{self._place} sends elsewhere: give the --url that it leads to")
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
        if response.status_code == 401 and "authorization" in self._client.headers:
            text = f"{self._place} does not take this token: it is another node's, or one of before"
        elif response.status_code == 401:
            text = f"{self._place} wants a token: give --token-file F, or --data-dir DIR"
        return ControlFailed(one_line(text), response.status_code, value if isinstance(value, dict) else None)


def _cause(error: BaseException) -> str:
    """What went wrong, from the first in a chain of exceptions that says it."""
    while not str(error) and (before := error.__cause__ or error.__context__) is not None:
        error = before
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        text = f"its certificate is vouched for by nobody known here: give --ca F ({text})"
    elif "WRONG_VERSION_NUMBER" in text:
        text = "no TLS is spoken there: write http://"
    elif "without sending a response" in text:
        text = "it hangs up without an answer: is it https://, or no HTTP at all?"
    return one_line(text)


@asynccontextmanager
async def open_control(target: Target) -> AsyncIterator[Control]:
    """Open a client.

    Raises:
        UsageError: nothing says whose control is meant.
        NotServed: no node serves HTTP from the data dir, or the one that did is gone.
        ConfigError: the token or the certificates cannot be read, or a package is missing.
    """
    if target.url is None:
        if target.data_dir is None:
            raise UsageError("which node? give --data-dir DIR or --url URL")
        # Before any package is missed: with nobody to ask none is needed.
        if not (target.data_dir / CONTROL_FILE).exists():
            raise _not_served(target.data_dir)
    try:
        import httpx

        from http_control.files import read_token
    except ImportError as error:
        raise ConfigError(NEEDS.format(error.name)) from None
    unix: str | None = None
    verify: ssl.SSLContext | bool = True
    if target.url is not None:
        try:
            url = httpx.URL(target.url)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in {"http", "https"} or not url.host or not 0 < (url.port or 80) <= 65535:
            raise UsageError(f"--url {target.url!r}: write http://HOST:PORT")
        if target.ca is not None:
            verify = _vouching(target.ca)
        base, prefix = f"{url.scheme}://{url.netloc.decode()}", url.path.rstrip("/") or "/p2p"
    else:
        assert target.data_dir is not None
        control = _served_from(target.data_dir)
        unix, prefix = control.unix, control.prefix
        base = "http://localhost" if unix is not None else _reachable(control.urls)
        # The certificate is for the name that others use; here it is this machine, by the word of a file of ours.
        verify = False
    # After it is clear that the node lives: one that never served HTTP has no token.
    token = None
    if target.token_file is not None:
        token = _token_in(target.token_file)
    elif target.data_dir is not None:
        token = read_token(target.data_dir)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    transport = httpx.AsyncHTTPTransport(uds=unix, verify=verify)
    place = f"unix:{unix}" if unix is not None else base
    async with httpx.AsyncClient(base_url=base, headers=headers, transport=transport, timeout=ANSWER_S_MAX) as client:
        yield Control(client, prefix, place)


def _served_from(data_dir: Path) -> ControlFile:
    """Where the node of a data dir is reached; only if it lives: whoever listens there now would be shown the token."""
    from http_control.files import read_control, remove_control

    control = read_control(data_dir)
    if control is None:
        raise _not_served(data_dir)
    if holder_of(data_dir) != control.pid:
        remove_control(data_dir, control)
        raise NotServed(
            f"the node that served HTTP from {data_dir} is gone (process {control.pid}): start it with --http "
            "127.0.0.1:0"
        )
    return control


def _not_served(data_dir: Path) -> NotServed:
    return NotServed(f"no node serves HTTP from {data_dir}: start it with --http 127.0.0.1:0")


def _vouching(ca: Path) -> ssl.SSLContext:
    import ssl

    try:
        context = ssl.create_default_context()
        context.load_verify_locations(ca)
    except OSError as error:
        # An SSLError is one, too: a file that holds no certificate.
        raise ConfigError(one_line(f"--ca {ca}: {error.strerror or error}")) from None
    return context


def _reachable(urls: list[str]) -> str:
    """The first of a server's addresses, as somebody on the same machine asks for it."""
    if not urls:
        raise ConfigError("control.json names no address: start the node again")
    return urls[0].replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _token_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(TOKEN_BYTES_MAX + 2).decode("ascii").strip()
    except OSError as error:
        raise ConfigError(one_line(f"--token-file {path}: {error.strerror or error}")) from None
    except UnicodeDecodeError:
        token = ""
    if not 16 <= len(token) <= TOKEN_BYTES_MAX or not token.isprintable() or " " in token:
        raise ConfigError(one_line(f"--token-file {path} holds no token, which is one line of 16-256 characters"))
    return token
