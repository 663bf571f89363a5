"""One suite for every table of a registry: SQLite in memory, SQLite in a file, Redis."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from http_control.registry.redis_table import RedisTable
from http_control.registry.sqlite import SqliteTable
from http_control.registry.table import Noted, Table, TableUnavailable
from p2p import ConfigError
from p2p.registry import Entry, ListedPeer, Room, Scope
from tests.programs import needs
from tests.redis_server import redis_server

ROOM = Room(ttl_s=60.0, entries_max=1000, per_source_max=8)
ALL = tuple(Scope)
KEY = "ab" * 32


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("r")) as url:
        yield url


@pytest.fixture(
    params=["memory", "file", pytest.param("redis", marks=needs("redis-server"))],
)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Table]:
    made: Table
    if request.param == "redis":
        redis = RedisTable(request.getfixturevalue("redis_url"))
        redis._redis.flushall()
        made = redis
    else:
        made = SqliteTable(tmp_path / "registry.db" if request.param == "file" else None)
    yield made
    made.close()


def entry(
    host: str = "8.8.4.4", port: int = 9101, *, node_id: str = "kitchen", peer_id: str | None = None,
    scheme: str = "tcp", scope: Scope = Scope.PUBLIC, source: str | None = None,
) -> Entry:  # fmt: skip
    return Entry(ListedPeer(host, port, node_id, scheme, peer_id), scope, source or f"{host}/32")


def picked(table: Table, *scopes: Scope, count: int = 100) -> set[tuple[str, int, str, str, str | None]]:
    peers = table.pick(scopes or ALL, count)
    found = {(peer.host, peer.tcp_port, peer.node_id, peer.scheme, peer.peer_id) for peer in peers}
    assert len(found) == len(peers), "each entry once"
    return found


def test_an_entry_is_there_with_all_it_said(table: Table) -> None:
    assert table.note(entry(scheme="wss", peer_id=KEY), ROOM) is Noted.TAKEN
    (peer,) = table.pick(ALL, 100)
    assert (peer.host, peer.tcp_port, peer.node_id, peer.scheme, peer.peer_id) == (
        "8.8.4.4",
        9101,
        "kitchen",
        "wss",
        KEY,
    )
    assert peer.expires_s is not None
    assert 50 < peer.expires_s <= 60


def test_an_empty_table_has_nobody(table: Table) -> None:
    assert table.pick(ALL, 100) == []
    assert table.pick((), 100) == []
    assert table.size() == 0


def test_announcing_again_renews_and_adds_nothing(table: Table) -> None:
    table.note(entry(node_id="old", peer_id=KEY), ROOM)
    table.note(entry(node_id="new", peer_id=KEY), ROOM)
    assert picked(table) == {("8.8.4.4", 9101, "new", "tcp", KEY)}
    table.note(entry(), ROOM)
    table.note(entry(), ROOM)
    assert table.size() == 2


def test_an_entry_of_one_identity_or_place_does_not_push_out_another(table: Table) -> None:
    for one in (
        entry(), entry(peer_id=KEY), entry(peer_id="cd" * 32), entry(port=9102), entry(scheme="ws"), entry("8.8.4.5"),
        entry(node_id="cellar"), entry(node_id="cellar", peer_id="ef" * 32),
    ):  # fmt: skip
        assert table.note(one, ROOM) is Noted.TAKEN
    assert len(picked(table)) == table.size() == 8


def test_who_asks_gets_the_scopes_he_may_see(table: Table) -> None:
    for number, scope in enumerate(ALL):
        table.note(entry(port=9101 + number, scope=scope), ROOM)
    assert {port for _, port, *_ in picked(table, Scope.PUBLIC)} == {9101}
    assert {port for _, port, *_ in picked(table, Scope.PUBLIC, Scope.PRIVATE)} == {9101, 9102}
    assert len(picked(table)) == 3


@pytest.mark.parametrize("count", [1, 3, 10])
def test_no_more_than_asked_for(table: Table, count: int) -> None:
    for number in range(5):
        for scope in ALL:
            table.note(entry(f"8.8.{scope}.{number}", scope=scope), ROOM)
    assert len(picked(table, count=count)) == count


def test_every_entry_comes_up_sooner_or_later(table: Table) -> None:
    hosts = {f"8.8.0.{number}" for number in range(50)}
    for host in hosts:
        table.note(entry(host), ROOM)
    seen: set[str] = set()
    for _ in range(400):
        seen |= {host for host, *_ in picked(table, count=5)}
    assert seen == hosts


def test_one_source_has_so_many_entries_and_renews_them(table: Table) -> None:
    for number in range(8):
        assert table.note(entry(port=9000 + number, source="8.8.4.4/32"), ROOM) is Noted.TAKEN
    assert table.note(entry(port=9999, source="8.8.4.4/32"), ROOM) is Noted.SOURCE_FULL
    assert table.note(entry(port=9000, source="8.8.4.4/32"), ROOM) is Noted.TAKEN
    assert table.note(entry("8.8.4.5"), ROOM) is Noted.TAKEN
    assert table.size() == 9


def test_an_unsigned_entry_gives_way_to_a_signed_one_of_the_same_full_source_and_to_no_other(table: Table) -> None:
    kept = entry(port=9000, peer_id=KEY)
    for one in (kept, *(entry(port=port) for port in range(9001, 9008))):
        assert table.note(one, ROOM) is Noted.TAKEN
    assert table.note(entry("8.8.4.5", peer_id=KEY), ROOM) is Noted.TAKEN
    for port in range(9001, 9008):
        assert table.note(entry(port=port + 100, peer_id=KEY), ROOM) is Noted.TAKEN
    assert table.note(entry(port=9200, peer_id=KEY), ROOM) is Noted.SOURCE_FULL
    assert table.note(entry(port=9001), ROOM) is Noted.SOURCE_FULL, "it gave way"
    assert table.note(kept, ROOM) is Noted.TAKEN
    assert {(port, key) for host, port, _, _, key in picked(table) if host == "8.8.4.4"} == {
        (port, KEY) for port in (9000, *range(9101, 9108))
    }
    assert table.size() == 9


def test_what_gave_way_takes_no_place_in_the_count(table: Table) -> None:
    room = Room(ttl_s=60.0, entries_max=3, per_source_max=2)
    for port in (1, 2):
        assert table.note(entry(port=port, source="one"), room) is Noted.TAKEN
    for port in (3, 4):
        assert table.note(entry(port=port, peer_id=KEY, source="one"), room) is Noted.TAKEN
    assert table.size() == 2
    assert table.note(entry(port=5, source="two"), room) is Noted.TAKEN
    assert table.note(entry(port=6, source="three"), room) is Noted.FULL


def test_a_full_table_refuses_new_entries_and_renews_old_ones(table: Table) -> None:
    room = Room(ttl_s=60.0, entries_max=3, per_source_max=8)
    for number in range(3):
        table.note(entry(f"8.8.0.{number}"), room)
    assert table.note(entry("8.8.1.1"), room) is Noted.FULL
    assert table.note(entry("8.8.0.1"), room) is Noted.TAKEN


def test_this_machines_own_entries_are_not_bounded_by_source(table: Table) -> None:
    for port in range(9000, 9020):
        one = entry("127.0.0.1", port, scope=Scope.LOOPBACK, source="127.0.0.1/32")
        assert table.note(one, ROOM) is Noted.TAKEN
    assert table.size() == 20


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the table's own clock brings."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_what_is_not_announced_again_is_forgotten_and_gives_its_room_back(table: Table) -> None:
    short = Room(ttl_s=0.2, entries_max=1, per_source_max=1)
    assert table.note(entry(), short) is Noted.TAKEN
    until(lambda: picked(table) == set())
    until(lambda: table.size() == 0)
    until(lambda: table.note(entry(port=9102), short) is Noted.TAKEN)


def test_threads_may_share_it(table: Table) -> None:
    """As many calls as it allows, at a time: nothing is lost, nothing breaks."""
    room = Room(60.0, 10_000, 1000)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for port in range(1, 21):
                table.note(entry(f"8.8.0.{number}", port), room)
                table.pick(ALL, 10)
        except BaseException as error:  # noqa: BLE001  # told below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(table.calls_max)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert table.size() == 20 * table.calls_max


# SQLite.


def test_a_file_keeps_its_entries_over_a_restart(tmp_path: Path) -> None:
    first = SqliteTable(tmp_path / "r.db")
    first.note(entry(), ROOM)
    first.close()
    second = SqliteTable(tmp_path / "r.db")
    assert (second.size(), len(picked(second))) == (1, 1)
    second.close()


def test_an_entry_is_listed_until_its_time_is_over_and_no_moment_longer() -> None:
    clock = [1_000.0]
    table = SqliteTable(now=lambda: clock[0])
    table.note(entry(), ROOM)
    clock[0] += ROOM.ttl_s - 0.01
    assert len(picked(table)) == 1
    clock[0] += 0.01
    assert picked(table) == set()
    table.close()


def test_a_clock_that_was_set_back_keeps_no_entry_for_ever(tmp_path: Path) -> None:
    clock = [1_000_000.0]
    table = SqliteTable(now=lambda: clock[0])
    table.note(entry(), ROOM)
    clock[0] = 1_000.0
    table.note(entry("8.8.4.5"), ROOM)
    assert {host for host, *_ in picked(table)} == {"8.8.4.5"}
    assert table.size() == 1
    table.close()


def test_a_file_of_an_older_form_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    table = SqliteTable(path)
    table.note(entry(), ROOM)
    table._db.execute("PRAGMA user_version = 0")
    table.close()
    renewed = SqliteTable(path)
    assert renewed.size() == 0
    assert renewed.note(entry(), ROOM) is Noted.TAKEN
    renewed.close()


def test_two_registries_do_not_share_a_file(tmp_path: Path) -> None:
    first = SqliteTable(tmp_path / "r.db")
    with pytest.raises(ConfigError, match="another registry uses it"):
        SqliteTable(tmp_path / "r.db")
    first.close()
    SqliteTable(tmp_path / "r.db").close()


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE log (x)")
    other.commit()
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(ConfigError, match="something else"):
        SqliteTable(tmp_path / "other.db")
    assert (tmp_path / "other.db").read_bytes() == before
    (tmp_path / "text").write_text("this is no database, and long enough to be seen as none" * 40)
    with pytest.raises(ConfigError, match="not a database"):
        SqliteTable(tmp_path / "text")
    with pytest.raises(ConfigError, match="cannot be opened"):
        SqliteTable(tmp_path / "no" / "such" / "directory")


def test_a_closed_table_says_that_it_cannot_be_used(tmp_path: Path) -> None:
    table = SqliteTable()
    table.close()
    table.close()
    with pytest.raises(TableUnavailable):
        table.pick(ALL, 1)


# Redis.


@needs("redis-server")
def test_registries_share_a_table_in_redis(redis_url: str) -> None:
    first, second = RedisTable(redis_url), RedisTable(redis_url)
    first._redis.flushall()
    first.note(entry(), ROOM)
    assert len(picked(second)) == 1
    assert second.note(entry(port=1), Room(60.0, 1, 8)) is Noted.FULL
    first.close()
    assert second.size() == 1
    second.close()


@needs("redis-server")
def test_a_password_that_is_missing_or_wrong_is_told_with_what_to_do(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "secret") as url:
        for tried in (url, url.replace("unix://", "unix://:wrong@")):
            with pytest.raises(ConfigError, match="redis://:PASSWORD@HOST:PORT") as refused:
                RedisTable(tried)
            assert "AUTH" not in str(refused.value)
        RedisTable(url.replace("unix://", "unix://:secret@")).close()


@needs("redis-server")
def test_every_key_in_redis_expires(redis_url: str) -> None:
    table = RedisTable(redis_url)
    table._redis.flushall()
    table.note(entry(), ROOM)
    keys = table._redis.keys("*")
    assert len(keys) == 3
    assert all(0 < table._redis.ttl(key) <= 60 for key in keys)
    assert all(str(key).startswith("p2p:{registry}:") for key in keys)
    table.close()


@needs("redis-server")
def test_a_registry_with_a_short_ttl_does_not_cut_the_others_entries(redis_url: str) -> None:
    table = RedisTable(redis_url)
    table._redis.flushall()
    table.note(entry(), ROOM)
    table.note(entry("8.8.4.5"), Room(0.05, 1000, 8))
    until(lambda: {host for host, *_ in picked(table)} == {"8.8.4.4"})
    table.close()


@needs("redis-server")
def test_what_others_wrote_into_redis_is_passed_over_or_said(redis_url: str) -> None:
    table = RedisTable(redis_url)
    table._redis.flushall()
    table.note(entry(), ROOM)
    table.note(entry("8.8.4.5"), ROOM)
    table._redis.set("p2p:{registry}:peer:8.8.4.4|9101|tcp|=kitchen", "not JSON", ex=60)
    assert {host for host, *_ in picked(table)} == {"8.8.4.5"}
    table._redis.set("p2p:{registry}:scope:0", "no sorted set")
    with pytest.raises(TableUnavailable, match="WRONGTYPE"):
        table.pick(ALL, 10)
    table.close()


@needs("redis-server")
def test_a_redis_that_dies_is_said_and_met_again(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        table = RedisTable(url)
        table.note(entry(), ROOM)
    with pytest.raises(TableUnavailable, match="Redis cannot be used"):
        table.note(entry(), ROOM)
    with pytest.raises(TableUnavailable):
        table.size()
    with redis_server(tmp_path):
        assert table.note(entry(), ROOM) is Noted.TAKEN
    table.close()


def test_a_redis_that_is_not_there_is_named_and_its_password_is_not() -> None:
    with pytest.raises(ConfigError, match="Redis cannot be used") as caught:
        RedisTable("redis://me:hunter2@127.0.0.1:1/0")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="URL of Redis") as caught:
        RedisTable("redis://me:hunter2@127.0.0.1:port/0")
    assert "hunter2" not in str(caught.value)


def test_what_was_taken_back_still_has_its_place_in_the_count() -> None:
    table = SqliteTable()
    room = Room(ttl_s=60.0, entries_max=2, per_source_max=2)
    for port in (1, 2):
        table.note(entry(port=port, source="one"), room)
    table._db.execute("CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(TableUnavailable, match="disk full"):
        table.note(entry(port=3, peer_id=KEY, source="one"), room)
    table._db.execute("DROP TRIGGER full")
    assert table.size() == 2
    assert table.note(entry(port=4, source="two"), room) is Noted.FULL
    table.close()


def test_what_a_full_disk_refused_takes_no_place_in_the_count(tmp_path: Path) -> None:
    table = SqliteTable(tmp_path / "registry.db")
    room = Room(ttl_s=60.0, entries_max=2000, per_source_max=2000)

    def note(number: int) -> Noted:
        return table.note(entry(port=1000 + number, source="one"), room)

    assert note(0) is Noted.TAKEN
    (pages,) = table._db.execute("PRAGMA page_count").fetchone()
    table._db.execute(f"PRAGMA max_page_count = {pages}")
    taken = refused = 0
    while refused < 20:
        try:
            note(1 + taken + refused)
            taken += 1
        except TableUnavailable:
            refused += 1
    assert table.size() == len(picked(table, count=5000)) == 1 + taken
    table._db.execute("PRAGMA max_page_count = 100000")
    assert note(9999) is Noted.TAKEN
    assert table.size() == 2 + taken
    table.close()
