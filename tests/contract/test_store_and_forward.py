"""Records for somebody who is not there: whoever meets him carries them, whole logs in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import p2p
from p2p.store.keys import open_reader, open_store
from p2p.windows import SystemClock, system_entropy
from tests.contract.test_replication import member, until_equal


async def read(node: p2p.Node, count: int) -> list[p2p.Record]:
    """The first records for this node, wherever they come from."""
    records: list[p2p.Record] = []
    with trio.fail_after(60):
        async with node.wal.follow("inbox", target=node.peer_id) as inbox:
            while len(records) < count:
                records.append(await inbox.__anext__())
            await inbox.commit(records[-1])
    return records


def prepared(data_dir: Path) -> p2p.PeerId:
    """Make a data dir whose node never ran; return whose it is."""
    store, identity = open_store(data_dir, entropy=system_entropy, say=lambda _: None)
    store.close()
    return identity.peer_id


async def test_what_is_written_for_somebody_who_is_off_is_carried_to_him_by_whom_both_meet(tmp_path: Path) -> None:
    b_id = prepared(tmp_path / "b")
    async with member("c", tmp_path / "c") as c:
        async with member("a", tmp_path / "a") as a:
            a_id = a.peer_id
            for number in range(50):
                await a.wal.append(b"for b, %d" % number, target=b_id)
                await a.wal.append(b"for all, %d" % number)
            await a.connect(c.endpoints[0])
            await until_equal(a, c)
    # A is gone for ever. C meets B days later, after a restart.
    async with member("c", tmp_path / "c") as c, member("b", tmp_path / "b") as b:
        await c.connect(b.endpoints[0])
        records = await read(b, 50)
        assert [record.payload for record in records] == [b"for b, %d" % number for number in range(50)]
        assert {(record.origin, record.target) for record in records} == {(a_id, b_id)}
        await until_equal(b, c)
    # What was done stays done over a restart, and what C brings later follows it.
    async with member("c", tmp_path / "c") as c, member("b", tmp_path / "b") as b:
        await c.wal.append(b"from c", target=b_id)
        await c.connect(b.endpoints[0])
        assert [record.payload for record in await read(b, 1)] == [b"from c"]
    reader = open_reader(tmp_path / "b")
    assert list(reader.verify()) == []
    reader.close()


async def test_a_chain_of_carriers_and_members_on_a_trust_list(tmp_path: Path) -> None:
    names = ("a", "c", "d", "b")
    trust = {name: prepared(tmp_path / name) for name in names}
    async with member("c", tmp_path / "c", trust=trust) as c:
        async with member("a", tmp_path / "a", trust=trust) as a:
            await a.wal.append(b"over two carriers", target=trust["b"])
            await a.connect(c.endpoints[0])
            await until_equal(a, c)
        async with member("d", tmp_path / "d", trust=trust) as d:
            await d.connect(c.endpoints[0])
            await until_equal(c, d)
    async with member("d", tmp_path / "d", trust=trust) as d, member("b", tmp_path / "b", trust=trust) as b:
        await b.connect(d.endpoints[0])
        assert [record.payload for record in await read(b, 1)] == [b"over two carriers"]


async def test_whom_records_are_for_is_a_peer_id_as_value_or_text() -> None:
    async with p2p.open_node(node_id="a") as a:
        for wrong, said in (("a", "64 lower-case hex digits, not 'a'"), (b"x" * 32, r"PeerId.parse\(text\)")):
            with pytest.raises(p2p.ConfigError, match=said):
                a.wal.follow(target=wrong)  # type: ignore[arg-type]  # what is refused
        for target in (a.peer_id, str(a.peer_id)):
            async with a.wal.follow(target=target) as records:
                await a.wal.append(b"for me", target=target)
                assert (await anext(records)).payload == b"for me"


async def test_what_has_expired_is_hidden_and_still_carried(tmp_path: Path) -> None:
    class Earlier(SystemClock):
        def wall_ms(self) -> int:
            return super().wall_ms() - 3_600_000

    b_id = prepared(tmp_path / "b")
    async with member("c", expire_after_s=60) as c:
        async with member("a", clock=Earlier()) as a:
            await a.wal.append(b"an hour old", target=b_id)
            await a.connect(c.endpoints[0])
            await until_equal(a, c)
        async with member("b", tmp_path / "b", expire_after_s=60) as b, member("late", tmp_path / "late") as late:
            await c.wal.append(b"new", target=b_id)
            await c.connect(b.endpoints[0])
            assert [record.payload for record in await read(b, 1)] == [b"new"]
            # The chain is whole: whoever keeps everything gets it from here.
            await late.connect(b.endpoints[0])
            await until_equal(b, c, late)
            async with late.wal.follow(target=b_id) as records:
                seen = {(await records.__anext__()).payload for _ in range(2)}
            assert seen == {b"an hour old", b"new"}


async def test_t04_a_node_that_can_start_no_thread_is_read_only_meanwhile_and_gives_its_data_dir_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    limits = p2p.Limits(store_retry_s=0.01)
    async with p2p.open_node(node_id="a", listen_port=None, data_dir=tmp_path, limits=limits) as node:
        await node.wal.append(b"one")
        with monkeypatch.context() as full:
            full.setattr(trio.lowlevel, "start_thread_soon", no_thread)
            with pytest.raises(p2p.StoreError, match="can't start new thread"):
                await node.wal.append(b"two")
        with trio.fail_after(30):
            while True:
                try:
                    await node.wal.append(b"three")
                except p2p.StoreError:
                    await trio.sleep(0.01)
                else:
                    break
        monkeypatch.setattr(trio.lowlevel, "start_thread_soon", no_thread)
    monkeypatch.undo()
    async with p2p.open_node(node_id="a", listen_port=None, data_dir=tmp_path) as node:
        assert node.wal.heads()[node.peer_id].seq == 2
