"""Data dirs: locks, keys and the files that hold them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import ConfigError, IdentityMismatch, StoreCorrupt, StoreError, StoreLocked
from p2p.ids import PeerId
from p2p.store.files import is_in_use
from p2p.store.keys import (
    KEY_FILE,
    STORE_FILE,
    DirLock,
    load_identity,
    load_network_key,
    load_trust,
    new_network_key,
    open_reader,
    open_store,
    parse_trust,
    renew_identity,
    write_private,
)
from tests.logs import Log, identity


class Dir:
    """A data dir and what opening it says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []

    def open(self, **more: object):  # type: ignore[no-untyped-def]
        return open_store(self.path, entropy=os.urandom, say=self.said.append, **more)  # type: ignore[arg-type]

    def make(self) -> PeerId:
        store, identity = self.open()
        store.close()
        return identity.peer_id


@pytest.fixture
def dir(tmp_path: Path) -> Dir:
    return Dir(tmp_path / "deep" / "data")


def test_an_absent_dir_is_initialised_and_that_is_said_in_one_line(dir: Dir) -> None:
    peer_id = dir.make()
    assert len(dir.said) == 1
    assert str(dir.path) in dir.said[0]
    assert str(peer_id) in dir.said[0]
    assert stat.S_IMODE(dir.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((dir.path / KEY_FILE).stat().st_mode) == 0o600
    assert dir.make() == peer_id
    assert len(dir.said) == 1
    assert load_identity(dir.path).peer_id == peer_id


def test_an_empty_dir_is_initialised_whatever_the_umask(dir: Dir) -> None:
    dir.path.mkdir(parents=True)
    before = os.umask(0)
    try:
        dir.make()
    finally:
        os.umask(before)
    assert stat.S_IMODE((dir.path / KEY_FILE).stat().st_mode) == 0o600


def test_some_other_dir_is_refused_and_left_alone(dir: Dir) -> None:
    dir.path.mkdir(parents=True)
    (dir.path / "photos").touch()
    with pytest.raises(ConfigError, match="photos"):
        dir.make()
    assert [path.name for path in dir.path.iterdir()] == ["photos"]
    file = dir.path / "photos"
    with pytest.raises(StoreError, match="cannot be used"):
        Dir(file).make()


def test_the_key_is_on_the_disk_before_the_store_is_made(dir: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_fsync, real_open = os.fsync, os.open
    names: dict[int, str] = {}

    def tracked_open(path: str | Path, *args: int, **more: int) -> int:
        fd = real_open(path, *args, **more)
        names[fd] = Path(path).name
        return fd

    def tracked_fsync(fd: int) -> None:
        real_fsync(fd)
        events.append(f"{names[fd]} synced, store {'there' if (dir.path / STORE_FILE).exists() else 'not there'}")

    monkeypatch.setattr(os, "open", tracked_open)
    monkeypatch.setattr(os, "fsync", tracked_fsync)
    dir.make()
    key = events.index(f".{KEY_FILE}.part synced, store not there")
    assert "data synced, store not there" in events[key:]
    assert events[-1] == "data synced, store there"


def test_a_crash_between_key_and_store_is_taken_up(dir: Dir) -> None:
    peer_id = dir.make()
    (dir.path / STORE_FILE).unlink()
    (dir.path / f".{KEY_FILE}.part").touch()
    assert dir.make() == peer_id
    assert len(dir.said) == 2


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["identity.pem", "log.sqlite"])
def test_t66_nobody_waits_for_what_is_no_file(dir: Dir, name: str, make: Callable[[Path], None]) -> None:
    dir.make()
    (dir.path / name).unlink()
    make(dir.path / name)
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises((ConfigError, StoreError), match=name):
        dir.open()
    assert len(os.listdir("/proc/self/fd")) == opened


# T63


def test_t63_a_second_process_is_refused_and_a_reader_is_not(dir: Dir) -> None:
    store, _ = dir.open()
    program = f"""
from pathlib import Path
import contextlib
import errno
import os
from p2p.errors import StoreLocked
from p2p.store.keys import open_reader, open_store
path = Path({str(dir.path)!r})
open_reader(path).close()
try:
    open_store(path, entropy=os.urandom, say=print)
except StoreLocked as error:
    print("refused", error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.startswith("refused another process has ")
    store.close()
    # Once it is given back, it is free.
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == ""


def test_t63_the_same_process_is_refused_as_well(dir: Dir) -> None:
    store, _ = dir.open()
    with pytest.raises(StoreLocked):
        dir.open()
    store.close()
    dir.make()


def test_t63_who_removes_the_lock_file_lets_nobody_in(dir: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = dir.open()
    (dir.path / "lock").unlink()
    with pytest.raises(StoreLocked):
        dir.open()
    assert is_in_use(dir.path / "log.sqlite")
    store.close()
    assert not is_in_use(dir.path / "log.sqlite")
    dir.make()
    # There are file systems on which dirs cannot be locked.
    flock = fcntl.flock

    def of_files(descriptor: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "no dirs here")
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", of_files)
    store, _ = dir.open()
    assert is_in_use(dir.path / "log.sqlite")
    with pytest.raises(StoreLocked):
        dir.open()
    opened = len(os.listdir("/proc/self/fd"))
    store.close()
    assert len(os.listdir("/proc/self/fd")) < opened


def test_t63_a_failed_opening_gives_the_lock_back(dir: Dir) -> None:
    peer_id = dir.make()
    with pytest.raises(IdentityMismatch):
        dir.open(identity=identity(9))
    assert dir.make() == peer_id


def test_a_lock_is_given_up_once(tmp_path: Path) -> None:
    lock = DirLock(tmp_path)
    lock.close()
    lock.close()
    DirLock(tmp_path).close()


# T66


def test_t66_a_store_without_its_key_is_refused_and_no_new_key_is_made(dir: Dir) -> None:
    dir.make()
    (dir.path / KEY_FILE).unlink()
    with pytest.raises(IdentityMismatch, match="not its key"):
        dir.make()
    assert not (dir.path / KEY_FILE).exists()
    # The key itself may come from elsewhere.
    with pytest.raises(IdentityMismatch, match="belongs to"):
        dir.open(identity=identity(9))


def test_t66_a_key_cut_at_any_place_is_refused(dir: Dir) -> None:
    dir.make()
    key = dir.path / KEY_FILE
    pem = key.read_bytes()
    for size in range(0, len(pem) - 2, 7):
        key.write_bytes(pem[:size])
        with pytest.raises(ConfigError, match="restore it"):
            dir.make()
        assert key.read_bytes() == pem[:size]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_t66_a_key_that_others_may_read_is_refused_with_the_mend(dir: Dir, mode: int) -> None:
    dir.make()
    key = dir.path / KEY_FILE
    key.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600 "):
        dir.make()
    assert stat.S_IMODE(key.stat().st_mode) == mode
    key.chmod(0o400)
    dir.make()


def test_t66_another_key_beside_the_store_is_refused(dir: Dir) -> None:
    dir.make()
    (dir.path / KEY_FILE).write_bytes(identity(9).to_pem())
    with pytest.raises(IdentityMismatch, match="another data dir"):
        dir.make()


def test_t66_a_key_that_is_no_file_or_endless_is_refused(dir: Dir) -> None:
    dir.make()
    key = dir.path / KEY_FILE
    key.unlink()
    key.mkdir(mode=0o700)
    with pytest.raises(ConfigError):
        dir.make()
    key.rmdir()
    key.write_bytes(b"x" * 5000)
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="no key"):
        dir.make()


def test_an_identity_that_is_given_needs_no_key_file(dir: Dir) -> None:
    store, used = dir.open(identity=identity(9))
    assert used.peer_id == identity(9).peer_id == store.own
    store.close()
    assert not (dir.path / KEY_FILE).exists()
    dir.open(identity=identity(9))[0].close()


# A new identity after a fork.


def test_a_new_identity_keeps_the_old_log(dir: Dir) -> None:
    store, old = dir.open()
    log = Log(2)
    with store.write() as transaction:
        transaction.append(log.add(b"x"))
    store.close()
    new, was = renew_identity(dir.path, entropy=os.urandom)
    assert was == old.peer_id != new.peer_id
    store, now = dir.open()
    assert now.peer_id == new.peer_id == store.own
    assert store.current()[log.origin].seq == 1
    store.close()
    assert stat.S_IMODE((dir.path / KEY_FILE).stat().st_mode) == 0o600
    retired = dir.path / f"identity-{was.short}.pem"
    assert retired.read_bytes() == old.to_pem()


@pytest.mark.parametrize("crash_at", ["change_owner", "replace"])
def test_t59_a_renewal_that_is_cut_short_leaves_the_old_or_the_new(
    dir: Dir, monkeypatch: pytest.MonkeyPatch, crash_at: str
) -> None:
    old = dir.make()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        if crash_at == "replace":
            broken.setattr(os, "replace", crash)
        else:
            broken.setattr("p2p.store.sqlite.SqliteStore.change_owner", crash)
        with pytest.raises(KeyboardInterrupt):
            renew_identity(dir.path, entropy=os.urandom)
    now = dir.make()
    assert (now == old) == (crash_at == "change_owner")
    assert dir.make() == now
    assert renew_identity(dir.path, entropy=os.urandom)[1] == now


def test_a_running_node_keeps_its_identity(dir: Dir) -> None:
    store, _ = dir.open()
    with pytest.raises(StoreLocked):
        renew_identity(dir.path, entropy=os.urandom)
    store.close()


def test_a_reader_needs_a_store(dir: Dir, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no store"):
        open_reader(tmp_path)
    peer_id = dir.make()
    reader = open_reader(dir.path)
    assert reader.own == peer_id
    reader.close()


def test_a_damaged_store_is_refused_with_its_name(dir: Dir) -> None:
    dir.make()
    (dir.path / STORE_FILE).write_bytes(b"x" * 5000)
    with pytest.raises(StoreCorrupt, match=STORE_FILE):
        dir.make()


# Network keys.


def test_a_network_key_is_made_and_read(tmp_path: Path) -> None:
    path = tmp_path / "net.key"
    key = new_network_key(path, entropy=os.urandom)
    assert len(key) == 32
    assert load_network_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == key.hex() + "\n"
    with pytest.raises(ConfigError, match="exists already"):
        new_network_key(path, entropy=os.urandom)
    assert load_network_key(path) == key
    assert [file.name for file in tmp_path.iterdir()] == ["net.key"]


@pytest.mark.parametrize(
    "content",
    [b"", b"correct horse battery staple", b"ab" * 31, b"ab" * 33, b"ab" * 31 + b"zz", b"\xff" * 64, b"a b" * 22],
)
def test_anything_else_is_no_network_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="--new-network-key"):
        load_network_key(path)


def test_a_network_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.key"
    new_network_key(path, entropy=os.urandom)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_network_key(path)
    with pytest.raises(ConfigError, match="there is no network key file"):
        load_network_key(tmp_path / "none")


# Trust files.


def test_a_trust_file(tmp_path: Path) -> None:
    one, two = identity(1).peer_id, identity(2).peer_id
    path = tmp_path / "trust"
    path.write_text(f"# friends\n\nalice {one}  # since 2020\n  bob\t{two}\n")
    assert load_trust(path) == {"alice": one, "bob": two}


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice {one} extra",
        "alice ABCD",
        "al/ice {one}",
        "{one} alice",
        "alice {one}\nalice {two}",
        "alice {one}\nbob {one}",
        "{one} {one}",
    ],
)
def test_a_line_that_is_anything_else_is_named(line: str) -> None:
    text = line.format(one=identity(1).peer_id, two=identity(2).peer_id)
    with pytest.raises(ConfigError, match=f"trust, line {len(text.splitlines())}: "):
        parse_trust(text, "trust")


@given(st.text(max_size=200))
def test_arbitrary_text_raises_one_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_trust(text, "trust")


def test_a_trust_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trust"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_trust(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_trust(tmp_path / "none")
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="longer"):
        load_trust(path)


def test_t61_a_key_that_could_not_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match="No space left"):
        write_private(tmp_path / "identity.pem", b"key")
    assert list(tmp_path.iterdir()) == []


def test_a_data_dir_may_have_any_name_that_the_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"d\xff ? # %41 \xe4\xb8\x96")
    store, identity = open_store(path, entropy=os.urandom, say=lambda _: None)
    store.close()
    assert identity.is_new
    store, again = open_store(path, entropy=os.urandom, say=lambda _: None)
    store.close()
    assert again.peer_id == identity.peer_id
    assert not again.is_new
    reader = open_reader(path)
    assert reader.own == identity.peer_id
    reader.close()
