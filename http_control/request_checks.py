"""What is looked at before a request is let near anything: the name it calls us by, the page it comes from, its form.

A browser can be made to send us requests by any page that its user opens. Three things in them cannot be forged there:
the name that was asked for (T52, rebinding), the origin of the page (T51), and that a body which is not JSON-typed
needs no permission while a JSON one does.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from http_control.options import P2PHttpOptions, plain_host
from http_control.problem import Problem, problem_of

if TYPE_CHECKING:
    from quart import Request

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


def check_site(request: Request, options: P2PHttpOptions) -> None:
    """Return if the request calls us by one of our names, and comes from no page of another site.

    A link that somebody follows to us comes from nowhere: the page that has it cannot read where it leads.

    Raises:
        Problem: it does not.
    """
    host = request.headers.get("host", "")
    if not _is_ours(name_of(host), request, options):
        raise Problem(
            421, "unknown_host", "this server is not known by that name", hint="is it yours? add it to allowed_hosts"
        )
    origin = request.headers.get("origin")
    if origin is not None:
        is_ours = _is_same_site(origin, host) or origin.lower() in options.allowed_origins
    else:
        is_ours = request.headers.get("sec-fetch-site", "none") in {"none", "same-origin"} or _is_followed_link(request)
    if not is_ours:
        raise Problem(403, "forbidden_origin", "a page of another site may not call this")


def check_form(request: Request) -> None:
    """Return if the request says that its body is JSON as it stands, or is of a kind that has none.

    Raises:
        Problem: it says something else, or nothing.
    """
    if request.method in WITH_BODY:
        kind, _, parameters = request.headers.get("content-type", "").partition(";")
        charset = parameters.strip().lower()
        if kind.strip().lower() != "application/json" or charset not in {"", "charset=utf-8", 'charset="utf-8"'}:
            raise problem_of(415)
        if request.headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
            raise problem_of(415)


def _is_followed_link(request: Request) -> bool:
    """Whether a browser opens this as a page of its own, in a tab and not in a frame."""
    headers = request.headers
    is_page = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return is_page and request.method in {"GET", "HEAD"}


def name_of(host: str) -> str:
    """The host of a Host header without its port, in its one spelling."""
    name, colon, port = host.rpartition(":")
    if colon and (port.isdigit() or not port) and not (name.count(":") and not name.endswith("]")):
        host = name
    return plain_host(host)


def _is_ours(name: str, request: Request, options: P2PHttpOptions) -> bool:
    if name in LOOPBACK_NAMES or name in options.allowed_hosts:
        return True
    # Asked for by the very address that the connection reached: nothing was resolved, so nothing was rebound.
    server = request.scope.get("server")
    if not server:
        return False
    try:
        return _plain_ip(name.strip("[]")) == _plain_ip(server[0].partition("%")[0])
    except ValueError:
        return False


def _plain_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; one of IPv4 that is written as one of IPv6 is the former."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _is_same_site(origin: str, host: str) -> bool:
    scheme, separator, rest = origin.partition("://")
    return bool(separator) and scheme in {"http", "https"} and rest.lower() == host.lower()
