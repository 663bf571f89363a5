"""Commands and options as click knows them, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import UNSET

from p2p.cli.output import ReaderGone, complain, complain_as_json, discard_output
from p2p.cli.settings import (
    LEVELS,
    UsageError,
    default_data_dir,
    from_environment,
    from_file,
    from_flags,
    refuse_odd_id,
    settle,
)
from p2p.errors import P2PError
from p2p.ids import how_to_name, is_who
from p2p.limits import Limits

if TYPE_CHECKING:
    from p2p.cli.client import Target

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

ON_OFF: Final = click.Choice(["on", "off"])


@contextmanager
def loading() -> Iterator[None]:
    """What only one command needs is imported when it runs. Meanwhile an interrupt ends the process as it ends any
    other program, and not with a picture of what was being imported."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; what went wrong is one line on standard error,
    and with --json that line is an object."""
    said = _Said("--json" in arguments)

    def tell(text: str) -> None:
        (complain_as_json if said.as_json else complain)(text)

    try:
        code = cli.main(args=list(arguments), prog_name="p2p", standalone_mode=False, obj=said)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        tell(error.format_message())
        return EXIT_USAGE if isinstance(error, click.UsageError) else EXIT_FAILURE
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:  # noqa: BLE001  # no traceback reaches a user
        return _failed(error, tell)
    return code if isinstance(code, int) else EXIT_OK


@dataclass(slots=True)
class _Said:
    """What is known of how this run is to speak.

    Attributes:
        as_json: whether what goes wrong is told as an object.
    """

    as_json: bool


def _failed(error: BaseException, tell: Callable[[str], None]) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, UsageError):
        tell(str(error))
        return EXIT_USAGE
    if isinstance(error, ReaderGone):
        return EXIT_OK
    if isinstance(error, BrokenPipeError):
        discard_output()
        return EXIT_OK
    if isinstance(error, P2PError) and isinstance(error, OSError):
        tell(str(error.strerror or error))
        return EXIT_FAILURE
    if isinstance(error, P2PError) or (isinstance(error, OSError) and error.strerror is None):
        tell(str(error))
        return EXIT_FAILURE
    if isinstance(error, OSError):
        tell(f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror))
        return EXIT_FAILURE
    tell(f"this is a bug, please report it: {type(error).__name__}: {error} (P2P_LOG_LEVEL=debug shows where)")
    if os.environ.get("P2P_LOG_LEVEL", "").lower() in {"debug", "trace"}:
        sys.excepthook(type(error), error, error.__traceback__)
    return EXIT_FAILURE


def _version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"p2p {version('trio-p2p')}")
        except PackageNotFoundError:
            click.echo("p2p, run from its source tree")
        context.exit()


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--id", metavar="NAME", help="What this node is called: 1-64 of A-Z a-z 0-9 . _ -")
@click.option("--listen", type=int, metavar="PORT", help="TCP port; 0, the default, takes any free one.")
@click.option("--listen-ws", type=int, metavar="PORT", help="A second door, for WebSocket.")
@click.option("--tls-cert", metavar="F", help="Its certificate in PEM: then it is wss://.")
@click.option("--tls-key", metavar="F", help="The key of --tls-cert in PEM.")
@click.option("--tls-ca", metavar="F", help="Who signs certificates of wss:// peers; the system's by default.")
@click.option("--host", metavar="ADDR", help="Address to listen on; loopback unless something says who may come in.")
@click.option("--data-dir", metavar="DIR", help="Identity and log; $XDG_STATE_HOME/p2p/NAME by default.")
@click.option("--memory", is_flag=True, default=None, help="Keep nothing: a new identity and an empty log each time.")
@click.option(
    "--connect",
    multiple=True,
    metavar="HOST:PORT",
    help="A peer to keep connected; may be repeated. A peer id alone: behind a relay.",
)
@click.option("--connect-delay", type=int, metavar="MS", help="Wait so long before the first dial.")
@click.option("--no-connect", is_flag=True, default=None, help="Dial nobody, whatever is configured.")
@click.option("--run", type=float, metavar="SECONDS", help="Stop by itself after so long.")
@click.option("--stats-every", type=int, metavar="MS", help="Interval of the stats lines; 1000 by default, 0 for none.")
@click.option("--tui", type=ON_OFF, help="A live table instead of lines.")
@click.option("--quiet", is_flag=True, default=None, help="Warnings and errors only.")
@click.option("--json", is_flag=True, default=None, help="One JSON object a line.")
@click.option("--log-level", type=click.Choice(list(LEVELS), case_sensitive=False), help="What goes to standard error.")
@click.option("--network-key-file", metavar="F", help="64 hex digits that every member has; see `p2p id --help`.")
@click.option("--network", metavar="NAME", help="Keeps networks apart.")
@click.option("--trust", metavar="FILE", help="Who may connect: one `node_id peer_id` a line.")
@click.option("--open", is_flag=True, default=None, help="Let anybody connect, on all interfaces.")
@click.option("--append-stdin", is_flag=True, default=None, help="Every line of standard input becomes a record.")
@click.option("--discovery", type=ON_OFF, help="Find nodes near by, and be found; on by default.")
@click.option("--disc-port", type=int, metavar="PORT", help="UDP port of discovery, the same in all nodes; 37020.")
@click.option("--disc-mode", type=click.Choice(["broadcast", "multicast"]), help="How to reach all; broadcast.")
@click.option("--disc-interval", type=int, metavar="MS", help="Between two announcements; 2000.")
@click.option("--bootstrap", type=ON_OFF, help="Ask the registry; on by default where one is named.")
@click.option(
    "--registry", multiple=True, metavar="URL", help="http://HOST:PORT or https://HOST of a registry to ask for peers."
)
@click.option("--registry-token-file", metavar="F", help="What that registry wants to be shown.")
@click.option("--boot-interval", type=int, metavar="MS", help="Between two questions; 15000.")
@click.option("--announce", type=ON_OFF, help="Tell the registry of this node, too; on by default.")
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    help="The port that leads here from outside, for the registry; or ws://, wss://PORT.",
)
@click.option(
    "--relay", type=ON_OFF, help="Pass circuits on between peers that cannot reach each other; off by default."
)
@click.option("--relay-circuits", type=int, metavar="N", help="Circuits that it passes on in all; 128.")
@click.option("--relay-circuits-per-peer", type=int, metavar="N", help="Circuits over one neighbour; 32.")
@click.option("--relay-circuits-per-pair", type=int, metavar="N", help="Circuits between the same two; 4.")
@click.option("--relay-bytes-per-s", type=int, metavar="BYTES", help="What it lets through of a circuit, each way.")
@click.option("--relay-circuit-bytes", type=int, metavar="BYTES", help="A circuit that carried it is ended; 64 GiB.")
@click.option("--relay-idle", type=float, metavar="S", help="A circuit on which nothing moves so long is ended; 120.")
@click.option(
    "--via", multiple=True, metavar="HOST:PORT", help="A relay to keep connected and to look for peers behind."
)
@click.option("--expire-after", type=float, metavar="S", help="Hide records for somebody that are older; never.")
@click.option("--http", metavar="HOST:PORT", help="Control and dashboard over HTTP there; port 0 takes any free one.")
@click.option("--http-unix", metavar="PATH", help="The same on a unix socket.")
@click.option("--http-tls-cert", metavar="F", help="Certificate in PEM: serve https.")
@click.option("--http-tls-key", metavar="F", help="Its key in PEM.")
@click.option("--http-host", multiple=True, metavar="NAME", help="A name that the HTTP server is known by; repeatable.")
@click.option("--http-proxy", multiple=True, metavar="NET", help="Whose X-Forwarded-For is believed; repeatable.")
@click.option("--http-open", is_flag=True, default=None, help="Serve HTTP without TLS beyond this machine, knowingly.")
@click.option("--config", metavar="FILE.toml", help="Settings from a file; flags win over P2P_*, those over it.")
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
@click.pass_context
def cli(context: click.Context, /, config: str | None, **flags: Any) -> int:
    """Run a node until it is stopped, or use one of the commands below.

    \b
    p2p --id A --listen 9001 --append-stdin
    p2p --id B --listen 9002 --connect 127.0.0.1:9001
    """
    given = [key for key, value in flags.items() if value not in (None, ())]
    if context.invoked_subcommand is not None:
        if given or config:
            name = "--" + (given[0] if given else "config").replace("_", "-")
            raise UsageError(f"{name} belongs to running a node, not to `p2p {context.invoked_subcommand}`")
        return EXIT_OK
    config = config or os.environ.get("P2P_CONFIG")
    environment = from_environment(os.environ)
    context.obj.as_json |= environment.json is True
    if not given and not config and environment.id is UNSET:
        raise click.exceptions.NoArgsIsHelpError(context)
    file = from_file(Path(config).expanduser()) if config else from_flags({})
    context.obj.as_json |= file.json is True
    settings = settle(from_flags(_lower_level(flags)), environment, file, os.environ)
    context.obj.as_json = settings.json
    with loading():
        from p2p.cli.run import run_node
    return run_node(settings)


def _lower_level(flags: dict[str, Any]) -> dict[str, Any]:
    return {key: value.lower() if key == "log_level" and value else value for key, value in flags.items()}


class Count(click.IntRange):
    """A range of whole numbers that calls itself one."""

    name = "whole number"


class SomePath(click.Path):
    """A path. Nothing at all, which a script's unset variable leaves, is not the current directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Make it a `Path`."""
        if value == "":
            self.fail("it is empty: give a path", param, ctx)
        return super().convert(value, param, ctx)


A_PATH: Final = SomePath(path_type=Path)


def _somebody(_context: click.Context, _parameter: click.Parameter, who: str) -> str:
    if not who.strip():
        raise UsageError("whom? the name is empty: give a node id or a peer id")
    if mend := how_to_name(who, ""):
        raise UsageError(f"whom? {mend}")
    if not is_who(who):
        raise UsageError(f"whom? no peer is called {who[:80]!r}: give a node id or a peer id")
    return who


def _channel(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    size, size_max = len(name.encode(errors="surrogatepass")), Limits().channel_name_bytes_max
    if not 1 <= size <= size_max:
        raise UsageError(f"CHANNEL has 1-{size_max} bytes of UTF-8, and not {size}")
    return name


DATA_DIR = click.option(
    "--data-dir", required=True, metavar="DIR", type=A_PATH, envvar="P2P_DATA_DIR", help="The node's identity and log."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@cli.group()
def wal() -> None:
    """Look into a data dir, or append to it while no node holds it."""


@wal.command()
@DATA_DIR
@AS_JSON
@click.option("--kind", default="app", metavar="KIND", help="What the payloads are; app by default.")
@click.option("--target", metavar="PEER_ID", help="Whom the records are for; everybody by default.")
def append(data_dir: Path, as_json: bool, kind: str, target: str | None) -> int:
    """Make every line of standard input a record; an empty data dir is initialised."""
    with loading():
        from p2p.cli.appending import append_lines
    return append_lines(data_dir, as_json=as_json, kind=kind, target=target)


@wal.command()
@DATA_DIR
@AS_JSON
@click.option("--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--beyond-fork", is_flag=True, help="Only what is stored of forked logs and no part of them any more.")
def tail(data_dir: Path, as_json: bool, follow: bool, beyond_fork: bool) -> int:
    """Print every record, one a line."""
    with loading():
        from p2p.cli.wal import print_records
    return print_records(data_dir, as_json=as_json, follow=follow, beyond_fork=beyond_fork)


@wal.command()
@DATA_DIR
@AS_JSON
@click.option("--follow", is_flag=True, help="Print it again whenever it changes, until interrupted.")
def digest(data_dir: Path, as_json: bool, follow: bool) -> int:
    """Print one hash over all heads: two nodes with equal digests hold the same data."""
    with loading():
        from p2p.cli.wal import print_digest
    return print_digest(data_dir, as_json=as_json, follow=follow)


@wal.command()
@DATA_DIR
@AS_JSON
@click.option("--follow", is_flag=True, help="Print heads again as they move, until interrupted.")
def heads(data_dir: Path, as_json: bool, follow: bool) -> int:
    """Print what is held of every origin: seq and hash of its last batch."""
    with loading():
        from p2p.cli.wal import print_heads
    return print_heads(data_dir, as_json=as_json, follow=follow)


@wal.command()
@DATA_DIR
@AS_JSON
def verify(data_dir: Path, as_json: bool) -> int:
    """Check every hash, chain and signature; exit 1 and name what is damaged."""
    with loading():
        from p2p.cli.wal import verify_store
    return verify_store(data_dir, as_json=as_json)


@wal.command()
@DATA_DIR
@AS_JSON
def mend(data_dir: Path, as_json: bool) -> int:
    """Write a damaged store file anew with all that can be read; the damaged one is kept beside it."""
    with loading():
        from p2p.cli.wal import mend_file
    return mend_file(data_dir, as_json=as_json)


@wal.command()
@DATA_DIR
@AS_JSON
@click.argument("origin", metavar="ORIGIN", callback=_somebody)
def forget(data_dir: Path, as_json: bool, origin: str) -> int:
    """Drop everything held of ORIGIN, a peer id. It comes back if a peer still offers it and it is admitted."""
    with loading():
        from p2p.cli.wal import forget_origin
    return forget_origin(data_dir, origin, as_json=as_json)


@cli.group(invoke_without_command=True)
@click.option("--data-dir", metavar="DIR", type=A_PATH, envvar="P2P_DATA_DIR", help="The node's identity and log.")
@AS_JSON
@click.pass_context
def peers(context: click.Context, data_dir: Path | None, as_json: bool) -> int:
    """Print whom a data dir knows: label, peer id, records held, places where it was met, bans."""
    if context.invoked_subcommand is not None:
        return EXIT_OK
    if data_dir is None:
        raise UsageError("whose peers? give --data-dir DIR")
    with loading():
        from p2p.cli.peers import print_peers
    return print_peers(data_dir, as_json=as_json)


@peers.command("forget")
@DATA_DIR
@AS_JSON
@click.argument("who", metavar="WHO", callback=_somebody)
def forget_peer_command(data_dir: Path, as_json: bool, who: str) -> int:
    """Free the label and the places of WHO, a node id or a peer id, while no node holds the data dir."""
    with loading():
        from p2p.cli.peers import forget_peer
    return forget_peer(data_dir, who, as_json=as_json)


@peers.command("ban")
@DATA_DIR
@AS_JSON
@click.option("--hours", default=24, type=Count(1, 8760), metavar="N", help="For how long; 24.")
@click.argument("who", metavar="WHO", callback=_somebody)
def ban_peer_command(data_dir: Path, as_json: bool, hours: int, who: str) -> int:
    """Leave WHO, a node id or a peer id, alone for a while; from the node's next start on."""
    with loading():
        from p2p.cli.peers import ban_peer
    return ban_peer(data_dir, who, hours, as_json=as_json)


@peers.command("unban")
@DATA_DIR
@AS_JSON
@click.argument("who", metavar="WHO", callback=_somebody)
def unban_peer_command(data_dir: Path, as_json: bool, who: str) -> int:
    """Take the ban of WHO back, while no node holds the data dir."""
    with loading():
        from p2p.cli.peers import unban_peer
    return unban_peer(data_dir, who, as_json=as_json)


@cli.command("id")
@click.option("--data-dir", metavar="DIR", type=A_PATH, envvar="P2P_DATA_DIR", help="Whose identity.")
@click.option("--new", is_flag=True, help="Make a new identity there; an old log stays readable.")
@click.option("--new-network-key", metavar="FILE", type=A_PATH, help="Write a new random network key to a new file.")
@AS_JSON
def identity(data_dir: Path | None, new: bool, new_network_key: Path | None, as_json: bool) -> int:
    """Print the peer id of a data dir, or make an identity or a network key."""
    if new_network_key is not None:
        if data_dir is not None or new:
            raise UsageError("--new-network-key stands alone: a network key belongs to no data dir")
        with loading():
            from p2p.cli.identity import write_network_key
        return write_network_key(new_network_key, as_json=as_json)
    if data_dir is None:
        raise UsageError("whose? give --data-dir DIR (or --new-network-key FILE to make a network key)")
    with loading():
        from p2p.cli.identity import new_identity, print_identity
    return new_identity(data_dir, as_json=as_json) if new else print_identity(data_dir, as_json=as_json)


@cli.command()
@AS_JSON
@click.option("--records", default=200, type=Count(1, 20_000), metavar="N", help="Per node and round; 200.")
@click.option("--keep", metavar="DIR", type=A_PATH, help="Keep the data dirs there.")
@click.option("--http", is_flag=True, help="Serve each node's dashboard, and stay before the end until Ctrl-C.")
def demo(as_json: bool, records: int, keep: Path | None, http: bool) -> int:
    """Five nodes on this machine write, part, meet again and agree; one is killed on the way."""
    with loading():
        from p2p.cli.demo import run_demo
    return run_demo(as_json=as_json, records=records, keep=keep, http=http)


@cli.command()
@AS_JSON
@click.option("--listen", default="127.0.0.1:8470", metavar="HOST:PORT", help="127.0.0.1:8470 by default.")
@click.option("--store", metavar="FILE|URL", help="A file, or redis://HOST:PORT/DB; memory by default.")
@click.option("--ttl", default=60, type=Count(6, 3600), metavar="S", help="For how long a word holds; 60.")
@click.option("--token-file", metavar="F", type=A_PATH, help="What callers must show; a file of mode 0600.")
@click.option("--open", "is_open", is_flag=True, help="Serve anybody, on an address that others reach.")
@click.option("--require-signed", is_flag=True, help="Take signed announcements only; Vix's are not.")
@click.option("--proxy", "proxies", multiple=True, metavar="NET", help="Whose X-Forwarded-For is believed; repeatable.")
@click.option("--tls-cert", metavar="F", type=A_PATH, help="Certificate in PEM: serve https.")
@click.option("--tls-key", metavar="F", type=A_PATH, help="Its key in PEM.")
def registry(as_json: bool, **given: Any) -> int:
    """Serve a registry, where nodes leave word and learn of each other, until it is stopped."""
    with loading():
        from p2p.cli.registry import RegistrySettings, run_registry
    return run_registry(RegistrySettings(**given), as_json=as_json)


@cli.command()
def vectors() -> int:
    """Print examples of all that goes over the wire, as JSON, to test another implementation with."""
    with loading():
        from p2p.cli.vectors import print_vectors
    return print_vectors()


@cli.command()
@click.option("--id", "node_id", metavar="NAME", help="Which node, where its data is by default.")
@click.option("--data-dir", metavar="DIR", type=A_PATH, envvar="P2P_DATA_DIR", help="Which data dir.")
@click.option("--listen", default=0, type=Count(0, 65535), metavar="PORT", help="Where the node would listen.")
@click.option("--host", default="127.0.0.1", metavar="ADDR", help="On which address; loopback by default.")
@click.option("--disc-port", default=37020, type=Count(1, 65535), metavar="PORT", help="UDP port of discovery; 37020.")
@click.option("--registry", metavar="URL", help="A registry that should answer.")
@click.option("--registry-token-file", metavar="F", type=A_PATH, help="The token that it asks for.")
@click.option("--tls-ca", metavar="F", type=A_PATH, help="Who may have signed its certificate.")
@click.option("--network-key-file", metavar="F", type=A_PATH, help="A network key to check.")
@click.option("--trust", metavar="FILE", type=A_PATH, help="A trust list to check.")
@AS_JSON
def doctor(
    node_id: str | None,
    data_dir: Path | None,
    listen: int,
    host: str,
    disc_port: int,
    registry: str | None,
    registry_token_file: Path | None,
    tls_ca: Path | None,
    network_key_file: Path | None,
    trust: Path | None,
    as_json: bool,
) -> int:
    """See whether this machine is fit to run a node: a verdict a line, exit 1 if one is bad."""
    with loading():
        from p2p.cli.doctor import Patient, run_doctor
    if node_id is not None:
        refuse_odd_id(node_id)
        data_dir = default_data_dir(node_id, os.environ) if data_dir is None else data_dir
    if registry is None and registry_token_file is not None:
        raise UsageError("--registry-token-file is for a registry, and there is none: name it with --registry URL")
    patient = Patient(
        data_dir=data_dir,
        host=host,
        port=listen,
        discovery_port=disc_port,
        registry=registry,
        registry_token_file=registry_token_file,
        tls_ca=tls_ca,
        network_key_file=network_key_file,
        trust=trust,
    )
    return run_doctor(patient, as_json=as_json)


WAIT = click.option("--wait", default=5000, type=Count(1, 30_000), metavar="MS", help="For what comes of it; 5000.")


def _of_a_node(command: Callable[..., int]) -> Callable[..., int]:
    """The options that say which running node a command is about, as its argument `node`."""

    @wraps(command)
    def about(url: str | None, data_dir: Path | None, token_file: Path | None, ca: Path | None, **more: Any) -> int:
        with loading():
            from p2p.cli.client import Target
        return command(node=Target(url, data_dir, token_file, ca), **more)

    found: Callable[..., int] = about
    for option in reversed(
        (
            click.option("--url", metavar="URL", help="Where its HTTP control is: http://HOST:PORT"),
            click.option("--data-dir", metavar="DIR", type=A_PATH, envvar="P2P_DATA_DIR", help="Or where its data is."),
            click.option("--token-file", metavar="F", type=A_PATH, help="The token; control.token in the data dir."),
            click.option("--ca", metavar="F", type=A_PATH, help="Certificates (PEM) that may vouch for an https URL."),
            AS_JSON,
        )
    ):
        found = option(found)
    return found


@cli.command()
@_of_a_node
def status(node: Target, as_json: bool) -> int:
    """Show a running node and its peers (the node needs --http)."""
    with loading():
        from p2p.cli import remote
    return remote.run_remote(node, partial(remote.show_status, as_json=as_json))


@cli.command()
@_of_a_node
@click.option("--every", default=1000, type=Count(100, 86_400_000), metavar="MS", help="Interval; 1000 by default.")
def top(node: Target, as_json: bool, every: int) -> int:
    """Show a running node and its peers, again and again."""
    with loading():
        from p2p.cli import remote
    return remote.run_remote(node, partial(remote.show_top, as_json=as_json, every_s=every / 1000), only_shows=True)


@cli.command()
@_of_a_node
@WAIT
@click.argument("endpoint", metavar="HOST:PORT")
def connect(node: Target, as_json: bool, wait: int, endpoint: str) -> int:
    """Have a running node dial once, and say what came of it."""
    with loading():
        from p2p.cli import remote
    return remote.run_remote(node, partial(remote.connect, as_json=as_json, endpoint=endpoint, wait_ms=wait))


@cli.command()
@_of_a_node
@click.argument("who", metavar="PEER", callback=_somebody)
def disconnect(node: Target, as_json: bool, who: str) -> int:
    """Have a running node part from PEER, a node id or peer id."""
    with loading():
        from p2p.cli import remote
    return remote.run_remote(node, partial(remote.disconnect, as_json=as_json, who=who))


@cli.command()
@_of_a_node
@click.option("--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--lines", default=100, type=Count(0, 800), metavar="N", help="How many to begin with; 100.")
def log(node: Target, as_json: bool, follow: bool, lines: int) -> int:
    """Show the last lines of a running node's log."""
    with loading():
        from p2p.cli import remote
    act = partial(remote.show_log, as_json=as_json, follow=follow, lines=lines)
    return remote.run_remote(node, act, only_shows=True)


@cli.command()
@_of_a_node
@WAIT
@click.argument("who", metavar="PEER", callback=_somebody)
@click.argument("channel", metavar="CHANNEL", callback=_channel)
@click.argument("text", metavar="TEXT")
def send(
    node: Target,
    as_json: bool,
    wait: int,
    who: str,
    channel: str,
    text: str,
) -> int:
    """Have a running node send TEXT to a CHANNEL of PEER, a node id or peer id; by route if it is no neighbour."""
    with loading():
        from p2p.cli import remote, ways
    act = partial(ways.send, as_json=as_json, who=who, channel=channel, text=text, wait_ms=wait)
    return remote.run_remote(node, act)


@cli.command()
@_of_a_node
@WAIT
@click.argument("who", metavar="PEER", callback=_somebody)
@click.argument("channel", metavar="CHANNEL", callback=_channel)
@click.argument("text", metavar="TEXT")
def request(
    node: Target,
    as_json: bool,
    wait: int,
    who: str,
    channel: str,
    text: str,
) -> int:
    """Have a running node ask PEER, which serves CHANNEL, and print its answer."""
    with loading():
        from p2p.cli import remote, ways
    act = partial(ways.request, as_json=as_json, who=who, channel=channel, text=text, wait_ms=wait)
    return remote.run_remote(node, act)


@cli.command()
@_of_a_node
@WAIT
@click.argument("who", metavar="PEER", callback=_somebody)
def ping(node: Target, as_json: bool, wait: int, who: str) -> int:
    """Have a running node measure the round trip to PEER, and tell the way it takes."""
    with loading():
        from p2p.cli import remote, ways
    act = partial(ways.ping, as_json=as_json, who=who, wait_ms=wait)
    return remote.run_remote(node, act)


@cli.group()
def routes() -> None:
    """See and set the ways of a running node to peers that are no neighbours."""


@routes.command("list")
@_of_a_node
def list_routes(node: Target, as_json: bool) -> int:
    """Print every route, the best of a peer first."""
    with loading():
        from p2p.cli import remote, ways
    return remote.run_remote(node, partial(ways.list_routes, as_json=as_json))


@routes.command("add")
@_of_a_node
@click.option("--ttl", default=8, type=Count(1, 8), metavar="HOPS", help="Links that the way may have; 8.")
@click.option("--expires", type=Count(1, 2**31), metavar="MS", help="Forget it after so long; never by default.")
@click.argument("target", metavar="PEER", callback=_somebody)
@click.argument("relay", metavar="RELAY", callback=_somebody)
def add_route(
    node: Target,
    as_json: bool,
    ttl: int,
    expires: int | None,
    target: str,
    relay: str,
) -> int:
    """Reach PEER over RELAY, each a peer id (or the node id of a connected peer)."""
    with loading():
        from p2p.cli import remote, ways
    act = partial(ways.add_route, as_json=as_json, target=target, relay=relay, ttl=ttl, expires_ms=expires)
    return remote.run_remote(node, act)


@routes.command("remove")
@_of_a_node
@click.argument("target", metavar="PEER", callback=_somebody)
def remove_route(node: Target, as_json: bool, target: str) -> int:
    """Forget the routes to PEER, set and learnt. What relays still lead to they tell again, within 30 s."""
    with loading():
        from p2p.cli import remote, ways
    return remote.run_remote(node, partial(ways.remove_route, as_json=as_json, target=target))
