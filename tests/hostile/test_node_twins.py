"""Two of one kind: two identities under one label, and one identity in two places.

A label is a name that anybody can claim, so whoever claims another's loses the label and nothing else, or is refused
where the operator has fixed the name. An identity cannot be claimed, only copied, and that shows.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import trio

import p2p
from p2p.errors import Reason
from p2p.msg import Goodbye
from p2p.node.events import CloneSuspected, ForkFound, LabelConflict, PeerConnected, PeerLeft
from tests.hostile.rogue import rogue
from tests.hostile.victim import WAIT_S, limits, member, offence, until_alone, until_event, until_head, victim, where


async def appended(at: p2p.Node, node: p2p.Node, payload: bytes) -> None:
    """A record of `at` becomes durable at the node."""
    seq = await at.wal.append(payload)
    await until_head(node, at.peer_id, seq)


async def test_T14_T73_two_nodes_of_one_label_are_both_served_and_the_first_keeps_it(tmp_path: Path) -> None:
    lines: list[str] = []
    async with (
        victim(on_log=lines.append) as node,
        member("till", data_dir=tmp_path / "one") as one,
        member("till", data_dir=tmp_path / "two") as two,
        node.events() as events,
    ):
        await one.connect(node.endpoints[0])
        await two.connect(node.endpoints[0])
        conflict = await until_event(events, LabelConflict)
        assert conflict == LabelConflict("till", two.peer_id, one.peer_id, refused=False)
        assert [line for line in lines if "label conflict" in line and "`p2p peers forget`" in line]
        assert node.get_peer("till").peer_id == one.peer_id
        assert node.get_peer(two.peer_id).node_id is None
        await appended(one, node, b"from the one")
        await appended(two, node, b"from the other")
        # Each is its own identity everywhere: messages to the label go to the first.
        async with one.channel("hi") as channel:
            await node.send("till", "hi", b"to the first")
            with trio.fail_after(WAIT_S):
                assert (await channel.receive()).body == b"to the first"


async def test_T73_the_real_one_gets_in_after_an_impostor_took_its_label(tmp_path: Path) -> None:
    async with victim() as node, member("bank", data_dir=tmp_path / "bank", listen_port=0) as bank:
        async with rogue(node, node_id="bank") as impostor:
            assert node.get_peer("bank").peer_id == impostor.peer_id
            await bank.connect(node.endpoints[0])
            await appended(bank, node, b"without the label, and served")
            assert node.get_peer(bank.peer_id).node_id is None
            await bank.disconnect(node.peer_id)
            await until_gone(node, bank.peer_id)
            # Dialled by its name, the bank is the one that answers at the address the operator wrote down.
            await node.connect(p2p.PeerEndpoint("127.0.0.1", where(bank)[1], expect="bank"))
            assert node.get_peer("bank").peer_id == bank.peer_id
            await impostor.say(Goodbye(1, ""))
            await impostor.last_words()
        # From then on the label is the bank's, and another who shows it is refused.
        async with rogue(node, node_id="bank", is_open=False) as again:
            assert await again.last_words() is Reason.LABEL_CONFLICT
        assert node.get_peer("bank").peer_id == bank.peer_id


async def until_gone(node: p2p.Node, peer_id: p2p.PeerId) -> None:
    with trio.fail_after(WAIT_S):
        async with node.events() as events:
            while any(peer.peer_id == peer_id for peer in node.peers()):
                await events.__anext__()


async def test_T14_a_label_of_the_trust_list_is_refused_to_everybody_else(tmp_path: Path) -> None:
    bank, clerk = (p2p.Identity.generate(os.urandom) for _ in range(2))
    trust = {"bank": bank.peer_id, "clerk": clerk.peer_id}
    async with p2p.open_node(node_id="victim", trust=trust, listen_host="127.0.0.1") as node, node.events() as events:
        async with offence(node, Reason.LABEL_CONFLICT):
            async with rogue(node, network_key=None, node_id="bank", identity=clerk, is_open=False) as impostor:
                assert await impostor.last_words() is Reason.LABEL_CONFLICT
        assert await until_event(events, LabelConflict) == LabelConflict(
            "bank", clerk.peer_id, bank.peer_id, refused=True
        )
        async with offence(node, Reason.NOT_ADMITTED):
            async with rogue(node, network_key=None, node_id="bank", is_open=False) as stranger:
                assert await stranger.last_words() is Reason.NOT_ADMITTED
        async with member("bank", network_key=None, identity=bank, data_dir=tmp_path / "bank") as real:
            await real.connect(node.endpoints[0])
            await appended(real, node, b"the bank itself")
            assert node.get_peer("bank").peer_id == bank.peer_id
        await until_alone(node)


async def test_T15_one_identity_in_two_places_keeps_one_link_and_is_noticed(tmp_path: Path) -> None:
    async with member("till", data_dir=tmp_path / "one"):
        pass
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    async with (
        # So long it waits for a twin to part, who knows nothing of the other.
        victim(limits=replace(p2p.Limits(), probe_s_max=0.3)) as node,
        member("till", data_dir=tmp_path / "one") as one,
        member("till", data_dir=tmp_path / "two") as two,
        node.events() as events,
    ):
        assert one.peer_id == two.peer_id
        for _ in range(3):
            for twin in (one, two):
                await twin.connect(node.endpoints[0])
                await until_only_link(node)
        queued = list(events._queue)
        assert CloneSuspected(one.peer_id, "till") in queued
        # They moved from one to the other without the peer ever being away.
        connected = [event for event in queued if isinstance(event, PeerConnected | PeerLeft)]
        assert node.counters.links_ended.get(Reason.MOVED) == 5
        assert len(connected) == 1
        # And if both write, it is a fork: proven, frozen, and nobody else is touched.
        await appended(two, node, b"one history")
        await one.wal.append(b"another history")
        await one.connect(node.endpoints[0])
        assert (await until_event(events, ForkFound)).origin == one.peer_id
        assert node.wal.heads()[one.peer_id].frozen
        for twin in (one, two):
            # The other twin has been told by then that its link is not the one any more.
            await until_only_link(node)
            with trio.fail_after(WAIT_S):
                async with twin.events() as own:
                    if not node_is_frozen(twin):
                        await twin.connect(node.endpoints[0])
                    while not node_is_frozen(twin):
                        await own.__anext__()
            with pytest.raises(p2p.OwnLogForked):
                await twin.wal.append(b"no more of this")


def node_is_frozen(twin: p2p.Node) -> bool:
    head = twin.wal.heads().get(twin.peer_id)
    return head is not None and head.frozen


async def until_only_link(node: p2p.Node) -> None:
    """Until the link that gave way is gone on both sides."""
    rooms = node._rooms
    assert rooms is not None
    with trio.fail_after(WAIT_S):
        while len(rooms.supervisor.links) > 1:
            loser = next(link for link in rooms.supervisor.links if link.retiring)
            await loser.over.wait()


async def test_T15_a_copy_that_dials_its_original_is_told_that_it_is_itself(tmp_path: Path) -> None:
    async with member("till", data_dir=tmp_path / "one"):
        pass
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    async with victim(node_id="till", data_dir=tmp_path / "one") as node:
        async with member("till", data_dir=tmp_path / "two") as copy:
            async with offence(node, Reason.ABNORMAL):
                with pytest.raises(p2p.ConnectFailed) as caught:
                    await copy.connect(node.endpoints[0])
                assert caught.value.reason is Reason.SELF


async def test_T16_two_links_at_once_from_a_rogue_are_one_link_and_the_newer_one() -> None:
    async with victim() as node, offence(node, Reason.MOVED, Reason.CLOSED):
        async with rogue(node) as old, rogue(node, identity=old.identity) as new:
            # The older one is told to go, and what it says from now on replicates nothing.
            assert await old.last_words() is Reason.MOVED
            assert node.get_peer(new.peer_id).endpoint is not None
            assert len(node.peers()) == 1
            await old.let_go()
            await new.say(Goodbye(1, ""))
            await new.last_words()


async def test_t33_who_comes_and_goes_under_ever_new_names_does_not_decide_how_much_is_logged() -> None:
    told: list[str] = []
    few = limits(peer_lines_burst=3, peer_lines_per_s=1e-6)
    async with victim(limits=few, on_log=told.append) as node:
        for _ in range(6):
            # A label that is another's from the second on, a link, and its end.
            async with node.events() as events, rogue(node, node_id="same", is_open=False) as peer:
                await peer.say(Goodbye(Reason.CLOSED, ""))
                await until_event(events, PeerLeft)
        assert len([line for line in told if "same" in line or line.startswith(("connected", "lost"))]) == 3
        # Nor what is told of others: those whom this node looks for have lines of their own.
        async with member("wanted", listen_port=0) as wanted:
            await node.connect(wanted.endpoints[0])
            assert told[-1].startswith("connected to wanted")
