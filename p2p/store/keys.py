"""The data dir: its lock, its key, its store; and the two other files that hold keys.

    identity.pem   the Ed25519 private key, PKCS#8 PEM, mode 0600
    log.sqlite     the store (and SQLite's -wal and -shm beside it), mode 0600
    log.sqlite.*   beside it for a while or as a keepsake: .part, .suspect, .damaged (`p2p.store.rebuild`)
    lock           held with flock while a process has the store open, whose pid it names; so is the dir itself

A log and the key that signs it belong together for ever: a key without its log would sign seq 1 a second time, and
a log without its key can grow no more. So a fresh dir gets the key first, on the disk with its directory entry, and
only then the store, which records whose it is. A store whose key is missing is refused; a new key is never made beside
it by itself. (A key whose store is missing is accepted: the log is fetched back from peers, see replication section
5.)

A key that others can read is refused rather than mended: nobody can tell who has read it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from p2p.crypto.identity import Identity
from p2p.errors import ConfigError, IdentityMismatch, StoreCorrupt, StoreError, StoreLocked
from p2p.ids import PeerId, check_node_id
from p2p.limits import Limits
from p2p.store.base import LOCK_FILE, Damage
from p2p.store.disk import open_to_read, sync
from p2p.store.segments import check_readable
from p2p.windows import Entropy

if TYPE_CHECKING:
    # Imported where a store is opened: a node that keeps nothing has no use for SQLite, which takes 4 ms to import.
    from p2p.store.reader import SqliteReader
    from p2p.store.sqlite import SqliteStore

KEY_FILE: Final = "identity.pem"
STORE_FILE: Final = "log.sqlite"
_NEXT_KEY_FILE: Final = "identity.pem.next"
_RETIRED_KEY_FILE: Final = "identity-{}.pem"
_SERVED: Final = "control."
"""What HTTP control keeps here begins so; it may be served before the node has started."""

_LIMITS: Final = Limits()
_KEY_BYTES_MAX: Final = 4096
_TRUST_BYTES_MAX: Final = 1024 * 1024


class DirLock:
    """The sole right to a data dir.

    Raises:
        StoreLocked: another process has it.
        StoreError: the lock file cannot be made.
    """

    def __init__(self, data_dir: Path) -> None:
        path = data_dir / LOCK_FILE
        self._fds: list[int] = []
        try:
            self._fds.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            fcntl.flock(self._fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock_dir(data_dir)
        except OSError as error:
            self.close()
            if isinstance(error, BlockingIOError):
                holder = "this process" if _pid_in(path) == os.getpid() else "another process"
                raise StoreLocked(
                    f"{holder} has {data_dir} open: stop it, or use another data dir (reading tools work beside it)"
                ) from None
            raise StoreError(f"{path} cannot be opened and locked: {error.strerror}") from error
        # The lock is what counts: on a full disk its holder goes unnamed.
        with suppress(OSError):
            os.ftruncate(self._fds[0], 0)
            os.pwrite(self._fds[0], f"{os.getpid()}\n".encode(), 0)

    def _lock_dir(self, data_dir: Path) -> None:
        """Whoever removes a lock file that looks left behind would let a second process in, and both would sign the
        same seqs. Not every file system locks dirs: then it is the file that counts."""
        self._fds.append(os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            fcntl.flock(self._fds[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            os.close(self._fds.pop())

    def close(self) -> None:
        """Give it up. Idempotent."""
        while self._fds:
            os.close(self._fds.pop())


def _pid_in(path: Path) -> int | None:
    try:
        named = path.read_bytes().strip()
    except OSError:
        return None
    return int(named) if named.isdigit() else None


def holder_of(data_dir: Path) -> int | None:
    """The process that has a data dir open; None when nobody has, or it cannot be told who.

    For a moment the lock may be ours: not to be called again and again where a node may be about to start.
    """
    try:
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        named = os.read(descriptor, 32).strip()
        return int(named) if named.isdigit() else None
    except OSError:
        return None
    else:
        return None
    finally:
        os.close(descriptor)


def open_store(
    data_dir: Path,
    *,
    entropy: Entropy,
    say: Callable[[str], None],
    identity: Identity | None = None,
    limits: Limits = _LIMITS,
) -> tuple[SqliteStore, Identity]:
    """Open a data dir for a node; an absent or empty one is initialised.

    Args:
        entropy: a fresh key is made from it.
        say: gets a line when something was made or mended.
        identity: a key to use instead of the dir's own. It must be the store's all the same.
        limits: bounds.

    Returns:
        The store, which holds the dir's lock until it is closed, and the identity.

    Raises:
        StoreLocked: another process has it.
        IdentityMismatch: the store belongs to another key, or its key file is missing.
        ConfigError: the key file is readable by others, cut off, or no key; or the dir holds something else.
        StoreError: it cannot be opened or made.
    """
    fresh = _make_dir(data_dir)
    lock = DirLock(data_dir)
    try:
        if identity is None:
            identity = _dir_identity(data_dir, entropy)
        sync(data_dir)
        store = _open_whole(data_dir / STORE_FILE, identity.peer_id, lock, limits, say)
    except BaseException:
        lock.close()
        raise
    if fresh:
        sync(data_dir)
        say(f"initialised the data dir {data_dir} for peer id {identity.peer_id}")
    for line in store.mended:
        say(line)
    return store, identity


def _open_whole(path: Path, own: PeerId, lock: DirLock, limits: Limits, say: Callable[[str], None]) -> SqliteStore:
    """Open the store; one whose file is found damaged is written anew first, if that can be done."""
    from p2p.store.files import is_suspect
    from p2p.store.sqlite import SqliteStore

    if is_suspect(path):
        try:
            line = _mended(path)
        except StoreError as error:
            # It goes on as it is, as well as it can.
            line = str(error)
        if line is not None:
            say(line)
    try:
        return SqliteStore(path, own, lock, limits)
    except StoreCorrupt as error:
        try:
            line = _mended(path)
        except StoreError as failure:
            raise error from failure
        if line is None:
            raise
        say(line)
        return SqliteStore(path, own, lock, limits)


def _mended(path: Path) -> str | None:
    """Put the head of a store's file right, and write the file anew if its structure is damaged.

    Returns:
        A line about it; None if the file is whole.

    Raises:
        StoreError: it cannot be mended.
    """
    from p2p.store.files import beyond_mending, trust
    from p2p.store.head import put_head_right
    from p2p.store.rebuild import look_through, rebuild

    try:
        said = put_head_right(path)
        is_whole = look_through(path) is None
    except StoreCorrupt as error:
        raise beyond_mending(path) from error
    if is_whole:
        trust(path)
        return said
    line = rebuild(path)
    return line if said is None else f"{said}; {line}"


def mend_store(data_dir: Path) -> str | None:
    """Write a data dir's store anew if the structure of its file is damaged, or if a segment has what it misses; of
    segments alone if nothing of the file can be read.

    Returns:
        A line about what was saved; None if the file is whole.

    Raises:
        StoreLocked: a node runs on it.
        ConfigError: there is no store.
        StoreError: it cannot be mended; nothing changed.
    """
    from p2p.store.rebuild import has_come_back, rebuild
    from p2p.store.salvage import is_lost, salvage

    path = _store_of(data_dir)
    lock = DirLock(data_dir)
    try:
        check_readable(path)
        try:
            line = _mended(path)
        except StoreCorrupt:
            line = salvage(path, load_identity(data_dir).peer_id) if is_lost(path) else None
            if line is None:
                raise
            return line
        return rebuild(path) if line is None and has_come_back(path) else line
    finally:
        lock.close()


def open_reader(data_dir: Path) -> SqliteReader:
    """Open a data dir for a tool that only reads, beside a running node or without one.

    Raises:
        ConfigError: there is no store.
        StoreError: it cannot be read.
    """
    from p2p.store.files import is_in_use
    from p2p.store.head import check_head
    from p2p.store.reader import SqliteReader

    path = _store_of(data_dir)
    # Who has it open looked when it began; it may be this process.
    if not is_in_use(path):
        check_head(path)
    return SqliteReader(path)


def _store_of(data_dir: Path) -> Path:
    path = data_dir / STORE_FILE
    if not path.is_file():
        if not data_dir.exists():
            raise ConfigError(f"there is no {data_dir}: give the data dir of a node")
        raise ConfigError(f"{data_dir} holds no store ({STORE_FILE}): give the data dir of a node")
    return path


def owner_damage(data_dir: Path, owner: PeerId) -> Damage | None:
    """Compare what a store says of its owner with the key beside it; where there is no key, there is nothing to say.

    Raises:
        ConfigError: the key is not one that can be used, which says nothing of the store.
    """
    names = [name for name in (KEY_FILE, _NEXT_KEY_FILE) if (data_dir / name).exists()]
    keys = [read_identity(data_dir / name).peer_id for name in names]
    # A renewal that was cut short leaves two keys: the next start finishes it.
    if not keys or owner in keys:
        return None
    return Damage("owner", None, None, f"the store says that it belongs to {owner}, and {KEY_FILE} is {keys[0]}")


def load_identity(data_dir: Path) -> Identity:
    """Read the key of an existing data dir.

    Raises:
        ConfigError: it is missing, readable by others, cut off, or no key.
        IdentityMismatch: a store is there without it.
    """
    path = data_dir / KEY_FILE
    if not path.exists() and (data_dir / STORE_FILE).exists():
        raise _keyless(data_dir)
    return read_identity(path)


def renew_identity(data_dir: Path, *, entropy: Entropy) -> tuple[Identity, PeerId]:
    """Give a data dir a new key, after its own log was forked. Return it and the old peer id.

    The old log stays in the store, readable and frozen, as that of any other origin; the old key is kept beside the
    new one. A crash in between leaves the old state or the new one.

    Raises:
        StoreLocked: a node runs on it.
        ConfigError, StoreError: it is no usable data dir.
    """
    from p2p.store.sqlite import SqliteStore

    lock = DirLock(data_dir)
    try:
        old = _dir_identity(data_dir, entropy)
        new = Identity.generate(entropy)
        next_path = data_dir / _NEXT_KEY_FILE
        next_path.unlink(missing_ok=True)
        write_private(next_path, new.to_pem())
        store = SqliteStore(data_dir / STORE_FILE, old.peer_id)
        try:
            store.change_owner(new.peer_id)
        finally:
            store.close()
        _take_next_key(data_dir, old.peer_id)
    finally:
        lock.close()
    return new, old.peer_id


def _make_dir(data_dir: Path) -> bool:
    """Make sure that the dir is there and is a data dir or nothing; True if it is to be initialised."""
    try:
        if not data_dir.is_dir():
            data_dir.mkdir(mode=0o700, parents=True)
            sync(data_dir.parent)
            return True
        names = {path.name for path in data_dir.iterdir()}
    except FileExistsError as error:
        raise StoreError(f"the data dir {data_dir} cannot be used: it is a file; give a directory") from error
    except OSError as error:
        raise StoreError(f"the data dir {data_dir} cannot be used: {error.strerror}") from error
    if STORE_FILE in names:
        return False
    strangers = {name for name in names if not name.lstrip(".").startswith(_SERVED)}
    strangers -= {KEY_FILE, LOCK_FILE, f".{KEY_FILE}.part"}
    if strangers and KEY_FILE not in names:
        raise ConfigError(f"{data_dir} is not empty and no data dir (it holds {min(strangers)!r}): give another one")
    return True


def _dir_identity(data_dir: Path, entropy: Entropy) -> Identity:
    path = data_dir / KEY_FILE
    store = data_dir / STORE_FILE
    if path.exists():
        identity = read_identity(path)
        if (data_dir / _NEXT_KEY_FILE).exists() and store.exists():
            identity = _finish_renewal(data_dir, identity)
        return identity
    if store.exists():
        raise _keyless(data_dir)
    identity = Identity.generate(entropy)
    write_private(path, identity.to_pem())
    return identity


def _keyless(data_dir: Path) -> IdentityMismatch:
    return IdentityMismatch(
        f"{data_dir} holds a store but not its key: put {KEY_FILE} back (a new key could not continue that log)"
    )


def _finish_renewal(data_dir: Path, identity: Identity) -> Identity:
    """A renewal was cut short: the store says whether the next key is already the one."""
    from p2p.store.reader import SqliteReader

    next_path = data_dir / _NEXT_KEY_FILE
    reader = SqliteReader(data_dir / STORE_FILE)
    owner = reader.own
    reader.close()
    if owner == identity.peer_id:
        next_path.unlink()
        return identity
    successor = read_identity(next_path)
    if owner != successor.peer_id:
        return identity
    _take_next_key(data_dir, identity.peer_id)
    return successor


def _take_next_key(data_dir: Path, old: PeerId) -> None:
    path = data_dir / KEY_FILE
    retired = data_dir / _RETIRED_KEY_FILE.format(old.short)
    if not retired.exists():
        os.link(path, retired)
    os.replace(data_dir / _NEXT_KEY_FILE, path)
    sync(data_dir)


def read_identity(path: Path) -> Identity:
    """Read a private key file.

    Raises:
        ConfigError: it is missing, readable by others, cut off, or no Ed25519 key; the text says how to mend it.
    """
    data = read_private(path, "key file")
    try:
        return Identity.from_pem(data)
    except ConfigError as error:
        raise ConfigError(f"the key file {path} is cut off or damaged ({error}): restore it from a backup") from None


def read_private(path: Path, what: str) -> bytes:
    """Read a file that only its owner may read; at most 4 KiB.

    Raises:
        ConfigError: it cannot be read, is too long, or others may read it.
    """
    try:
        with open_to_read(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_KEY_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode) or len(data) > _KEY_BYTES_MAX:
        raise ConfigError(f"the {what} {path} is no key")
    if mode & 0o077:
        raise ConfigError(
            f"the {what} {path} has mode {stat.S_IMODE(mode):04o}, so others may have read it: "
            f"if nobody has, run `chmod 600 {path}`"
        )
    return data


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 that must not exist yet, so that it is whole and durable or not there.

    Raises:
        ConfigError: it exists already.
        StoreError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(data)
            file.flush()
            os.fsync(fd)
        # A link, unlike a rename, never takes the place of a file that is there.
        os.link(part, path)
        part.unlink()
        sync(path.parent)
    except FileExistsError:
        part.unlink(missing_ok=True)
        raise ConfigError(f"{path} exists already, and a key is never overwritten: give another name") from None
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def load_network_key(path: Path) -> bytes:
    """Read a network key: 64 hex digits in a file of mode 0600. Returns its 32 bytes.

    Raises:
        ConfigError: it is anything else. A password is refused: it would fall to an offline dictionary.
    """
    if not path.exists():
        raise ConfigError(f"there is no network key file {path}: make one with `p2p id --new-network-key FILE`")
    text = read_private(path, "network key file").strip()
    try:
        key = bytes.fromhex(text.decode("ascii")) if len(text) == 64 else b""
    except (UnicodeDecodeError, ValueError):
        key = b""
    if len(key) != 32:
        raise ConfigError(
            f"the network key file {path} must hold exactly 64 hex digits: "
            "make one with `p2p id --new-network-key FILE`, a password will not do"
        )
    return key


def new_network_key(path: Path, *, entropy: Entropy) -> bytes:
    """Make a network key and write it to a new file of mode 0600.

    Raises:
        ConfigError: the file exists already.
        StoreError: it cannot be written.
    """
    key = entropy(32)
    assert len(key) == 32
    write_private(path, key.hex().encode() + b"\n")
    return key


def load_trust(path: Path) -> dict[str, PeerId]:
    """Read a trust file: one `node_id peer_id` a line, `#` begins a comment.

    Raises:
        ConfigError: it cannot be read, or a line is anything else; the text names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_TRUST_BYTES_MAX + 1)
        text = data.decode()
    except OSError as error:
        raise ConfigError(f"the trust file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"the trust file {path} is not UTF-8") from None
    if len(data) > _TRUST_BYTES_MAX:
        raise ConfigError(f"the trust file {path} is longer than {_TRUST_BYTES_MAX} bytes")
    return parse_trust(text, str(path))


def parse_trust(text: str, name: str) -> dict[str, PeerId]:
    """Read the lines of a trust file.

    Args:
        name: what to call it in errors.

    Raises:
        ConfigError: a line is malformed, or a node id or peer id stands twice.
    """
    trusted: dict[str, PeerId] = {}
    seen: set[PeerId] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if len(words) != 2:
                raise ConfigError("a line is `node_id peer_id`")
            node_id, peer_id = check_node_id(words[0]), PeerId.parse(words[1])
            if node_id in trusted or peer_id in seen:
                raise ConfigError(f"{node_id} or its peer id is listed twice")
        except ConfigError as error:
            raise ConfigError(f"{name}, line {number}: {error}") from None
        trusted[node_id] = peer_id
        seen.add(peer_id)
    return trusted
