"""A thin client of a node's HTTP control: finds it by URL or data dir, shows the token, tells errors in one line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from p2p.cli.control import CONTROL_FILE, NEEDS
from p2p.cli.settings import UsageError
from p2p.errors import ConfigError, P2PError
from p2p.store.keys import holder_of
from p2p.text import one_line

if TYPE_CHECKING:
    import ssl

    import httpx

    from http_control.files import ControlFile

CONNECT_S_MAX: Final = 5.0
LOOK_S_MAX: Final = 10.0
"""For the answer to a question that a node need not ask anybody about."""
ANSWER_S_MAX: Final = 40.0
"""For the answer to what changes something, where the node was not told how long it may take."""
SLOW_S_MAX: Final = 20.0
"""Beyond the time for an answer's next byte: for the whole of one that comes slowly."""
MODULE: Final = "p2p_http"
"""In each JSON answer of a node; other servers have JSON, too."""
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Far more than any answer of a node."""
EVENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of one line of a stream; as in the dashboard."""
SILENCE_S_MAX: Final = 40.0
"""Without a byte on a stream, which has a comment every 15 s."""
TOKEN_BYTES_MAX: Final = 256
TOKEN_FILE: Final = "control.token"  # noqa: S105  # a file's name


END_S_MAX: Final = 3.0
"""From the end of its sockets until a node that stops has taken back `control.json`: twice what it allows itself."""
END_POLL_S: Final = 0.05


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


class NodeStopped(ControlFailed):
    """The node stopped in order while it was watched."""

    def __init__(self) -> None:
        super().__init__("the node stopped")


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole.

    Attributes:
        status: of HTTP.
        body: at most `ANSWER_BYTES_MAX`.
        kind: its media type, as the header has it.
    """

    status: int
    body: bytes
    kind: str

    def fields(self) -> dict[str, Any] | None:
        """The JSON object that it is, None if it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


class Control:
    """An open client. Made by `open_control`.

    Attributes:
        has_answered: whether anything asked of it was answered as a node does.
    """

    def __init__(self, client: httpx.AsyncClient, prefix: str, place: str, data_dir: Path | None) -> None:
        self._client = client
        self._prefix = prefix
        self._place = place
        self._data_dir = data_dir
        self.has_answered = False

    async def get(self, path: str) -> dict[str, Any]:
        """GET a path behind the prefix and return its JSON.

        Raises:
            ControlFailed: no answer, or an error.
        """
        return await self._ask("GET", path, None, LOOK_S_MAX)

    async def post(self, path: str, body: object, *, wait_ms: int | None = None) -> dict[str, Any]:
        """POST JSON; otherwise as `get`.

        Args:
            path: behind the prefix.
            body: becomes JSON.
            wait_ms: how long the node was told to wait for what comes of it; the answer may take `LOOK_S_MAX` more.
        """
        return await self._ask("POST", path, body, ANSWER_S_MAX if wait_ms is None else wait_ms / 1000 + LOOK_S_MAX)

    async def put(self, path: str, body: object) -> dict[str, Any]:
        """PUT JSON; otherwise as `get`."""
        return await self._ask("PUT", path, body, ANSWER_S_MAX)

    async def delete(self, path: str) -> dict[str, Any]:
        """DELETE a path; otherwise as `get`."""
        return await self._ask("DELETE", path, None, ANSWER_S_MAX)

    async def text(self, path: str) -> str:
        """GET a path that answers with text; otherwise as `get`."""
        answer = await self._answer("GET", path, None, LOOK_S_MAX)
        if not answer.kind.startswith("text/plain"):
            raise ControlFailed(NO_NODE.format(self._place))
        return answer.body.decode(errors="replace")

    async def events(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """The data of the events of a stream, as they come.

        Raises:
            NodeStopped: the node ended it.
            ControlFailed: it cannot be opened, or it ended otherwise.
        """
        import httpx

        waits = httpx.Timeout(SILENCE_S_MAX, connect=CONNECT_S_MAX)
        response: httpx.Response | None = None
        try:
            with trio.move_on_after(LOOK_S_MAX):
                request = self._client.build_request("GET", self._prefix + path, timeout=waits)
                response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise ControlFailed(f"{self._place} cannot be reached: {_cause(error)}") from None
        if response is None:
            raise ControlFailed(f"{self._place} cannot be reached: {NO_ANSWER}")
        try:
            if response.status_code != 200:
                with trio.move_on_after(LOOK_S_MAX):
                    raise self._failed(await self._whole(response))
                raise ControlFailed(f"{self._place} cannot be reached: {NO_ANSWER}")
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise ControlFailed(NO_NODE.format(self._place))
            async for line in self._lines(response):
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))
        except (httpx.HTTPError, ValueError) as error:
            raise ControlFailed(
                f"the node at {self._place} is gone without a word: killed, or out of reach ({_cause(error)})"
            ) from None
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_POLL_S):
                await response.aclose()
        try:
            await self.get("/ping")
        except ControlFailed:
            raise NodeStopped from None
        raise ControlFailed(f"{self._place} ended the stream: its lines were not read as fast as they came")

    async def is_over(self) -> bool:
        """Whether the node stopped in order, as far as its data dir tells: it has taken back what it said there."""
        if self._data_dir is None:
            return False
        with trio.move_on_after(END_S_MAX):
            while (self._data_dir / CONTROL_FILE).exists():  # noqa: ASYNC110  # another process takes it back
                await trio.sleep(END_POLL_S)
            return True
        return False

    async def _ask(self, method: str, path: str, body: object, waits_s: float) -> dict[str, Any]:
        value = (await self._answer(method, path, body, waits_s)).fields()
        if value is None or value.get("module") != MODULE:
            raise ControlFailed(NO_NODE.format(self._place))
        self.has_answered = True
        return value

    async def _answer(self, method: str, path: str, body: object, waits_s: float) -> Answer:
        import httpx

        waits = httpx.Timeout(waits_s, connect=CONNECT_S_MAX)
        answer: Answer | None = None
        try:
            with trio.move_on_after(waits_s + SLOW_S_MAX):
                request = self._client.stream(method, self._prefix + path, json=body, timeout=waits)
                async with request as response:
                    answer = await self._whole(response)
        except UnicodeEncodeError:
            raise UsageError("an argument is no UTF-8") from None
        except httpx.HTTPError as error:
            raise ControlFailed(f"{self._place} cannot be reached: {_cause(error)}") from None
        if answer is None:
            raise ControlFailed(
                f"{self._place} did not come to the end of its answer within {waits_s + SLOW_S_MAX:g} s: is another "
                "server there, or is the network slow?"
            )
        if answer.status >= 400:
            raise self._failed(answer)
        if answer.status >= 300:
            raise ControlFailed(f"{self._place} sends elsewhere: give the --url that it leads to")
        return answer

    async def _whole(self, response: httpx.Response) -> Answer:
        """An answer with its body, unless that has no end."""
        body = bytearray()
        pieces = response.aiter_bytes()
        async for piece in pieces:
            body += piece
            if len(body) > ANSWER_BYTES_MAX:
                await _leave(pieces)
                raise ControlFailed(f"{self._place} answers with more than any node does: is another server there?")
        return Answer(response.status_code, bytes(body), response.headers.get("content-type", ""))

    async def _lines(self, response: httpx.Response) -> AsyncIterator[bytes]:
        rest = bytearray()
        pieces = response.aiter_bytes()
        async for piece in pieces:
            # Only what is new is searched for the end of a line that comes in many pieces.
            first, *more = piece.split(b"\n")
            rest += first
            for start in more:
                yield bytes(rest)
                rest = bytearray(start)
            if len(rest) > EVENT_BYTES_MAX:
                await _leave(pieces)
                raise ControlFailed(f"{self._place} sends an event without an end: is another server there?")

    def _failed(self, answer: Answer) -> ControlFailed:
        value = answer.fields()
        text = f"{self._place} answered {answer.status}: is another server there?"
        if value is not None and "message" in value:
            text = f"{value['message']}"
            # Where to look over HTTP is no hint for somebody at a command line.
            if value.get("hint") and "see GET" not in f"{value['hint']}":
                text += f" ({value['hint']})"
        if answer.status == 404 and (value is None or value.get("error") == "not_found"):
            text = (
                f"{self._place} has no such thing under {self._prefix}: where its node has another prefix, write that "
                "behind the --url"
            )
        if answer.status == 401 and "authorization" in self._client.headers:
            text = f"{self._place} does not take this token: it is another node's, or one of before"
        elif answer.status == 401:
            text = f"{self._place} wants a token: give --token-file F, or --data-dir DIR"
        return ControlFailed(one_line(text), answer.status, value)


async def _leave(pieces: AsyncIterator[bytes]) -> None:
    """End a body that is not read to its end: what httpx reads it through ends in order only from within."""
    with trio.CancelScope() as scope:
        scope.cancel()
        async for _ in pieces:
            pass


NO_NODE: Final = "{} does not answer like a node: is another server there?"
NO_ANSWER: Final = "it takes the question and does not answer: is another server there, or does the process hang?"


def _cause(error: BaseException) -> str:
    """What went wrong, from the first in a chain of exceptions that says it."""
    import httpx

    if isinstance(error, httpx.ConnectTimeout):
        return f"nobody answers there within {CONNECT_S_MAX:g} s: is the host on, and the port let through?"
    if isinstance(error, httpx.TimeoutException):
        return NO_ANSWER
    while not str(error) and (before := error.__cause__ or error.__context__) is not None:
        error = before
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        text = f"its certificate is vouched for by nobody known here: give --ca F ({text})"
    elif "WRONG_VERSION_NUMBER" in text:
        text = "no TLS is spoken there: write http://"
    elif "without sending a response" in text:
        text = "it hangs up without an answer: is it https://, or no HTTP at all?"
    elif text.startswith("illegal "):
        # What h11 says there goes on with all that came.
        text = "what answers is no HTTP: is another server there?"
    return one_line(text)


@asynccontextmanager
async def open_control(target: Target) -> AsyncIterator[Control]:
    """Open a client.

    Raises:
        UsageError: nothing says whose control is meant.
        NotServed: no node serves HTTP from the data dir, or the one that did is gone.
        ConfigError: the token or the certificates cannot be read, or a package is missing; or the URL is not that of
            the node whose data dir is given, and its token is for nobody else.
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
        elif url.scheme == "http":
            # Nobody has a certificate there, and to read those of all authorities is a quarter of a command's work.
            verify = False
        base, prefix = f"{url.scheme}://{url.netloc.decode()}", url.path.rstrip("/") or "/p2p"
        if target.data_dir is not None and target.token_file is None:
            base = _same_place(url, target.data_dir)
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
    async with httpx.AsyncClient(base_url=base, headers=headers, transport=transport) as client:
        yield Control(client, prefix, place, target.data_dir if target.url is None else None)


def _served_from(data_dir: Path) -> ControlFile:
    """Where the node of a data dir is reached; only if it lives: whoever listens there now would be shown the token."""
    from http_control.files import read_control

    control = read_control(data_dir)
    if control is None:
        raise _not_served(data_dir)
    if holder_of(data_dir) != control.pid:
        raise NotServed(
            f"the node that served HTTP from {data_dir} is gone (process {control.pid}): start it with --http "
            "127.0.0.1:0"
        )
    return control


def _same_place(url: httpx.URL, data_dir: Path) -> str:
    """The address of a data dir's node, if that is what a URL says: anybody else at the URL would be shown its token.

    `localhost` is taken for the address that the node listens on: of the two it may mean, the other may be another's.
    """
    import httpx

    control = _served_from(data_dir)
    for base in map(_local, control.urls):
        ours = httpx.URL(base)
        is_there = url.host == ours.host or (url.host == "localhost" and ours.host in {"127.0.0.1", "::1"})
        if is_there and (url.scheme, _port(url)) == (ours.scheme, _port(ours)):
            # A certificate is for the name that was asked for.
            return base if url.scheme == "http" else f"{url.scheme}://{url.netloc.decode()}"
    where = f"unix:{control.unix}" if control.unix is not None else ", ".join(control.urls)
    raise ConfigError(
        f"--url {url} is not where the node of {data_dir} listens ({where}), so its token is not shown there: leave "
        f"out --url, or say --token-file {data_dir / TOKEN_FILE} if it is meant"
    )


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _not_served(data_dir: Path) -> NotServed:
    return NotServed(
        f"no node serves HTTP from {data_dir}: start it with --http 127.0.0.1:0; an application of your own that "
        "serves its routes is asked with --url and --token-file"
    )


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
    return _local(urls[0])


def _local(url: str) -> str:
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


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
