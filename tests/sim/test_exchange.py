"""Whole worlds of exchange machines: every one converges, and in the steady state a batch reaches a node once."""

from __future__ import annotations

import statistics

import pytest

from tests.sim.exchange_world import Node, World, make_batch, peer_id


def write_somewhere(world: World, nodes: list[Node], batches: int, spread_s: float) -> None:
    """Let random nodes append at random moments."""
    for _ in range(batches):
        node = world.random.choice(nodes)
        records, size = world.random.randint(1, 20), world.random.randint(0, 400)
        world.after(world.random.uniform(0, spread_s), lambda node=node, r=records, s=size: node.append(r, s))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", ["line", "ring", "mesh", "random_graph"])
def test_every_shape_converges(shape: str, seed: int) -> None:
    world = World(seed)
    nodes = [world.node() for _ in range(8)]
    if shape == "random_graph":
        world.random_graph(nodes, 4)
    else:
        getattr(world, shape)(nodes)
    write_somewhere(world, nodes, 60, 3.0)
    world.run(3.0, check_every=7)
    world.run_until(world.is_converged, 20, check_every=7)
    assert world.violations == [], f"seed {seed}"


def copies_per_batch_and_node(world: World, nodes: list[Node], batches: int, spread_s: float) -> float:
    """Warm up until every log has a way to every node, then measure."""
    for node in nodes:
        node.append(1, 10)
    world.run_until(world.is_converged, 30)
    world.run(5.0)
    for node in nodes:
        node.received.clear()
    before = sum(len(batches) for node in nodes for batches in node.log.batches.values())
    write_somewhere(world, nodes, batches, spread_s)
    world.run(spread_s)
    world.run_until(world.is_converged, 30)
    world.run(3.0)
    gained = sum(len(batches) for node in nodes for batches in node.log.batches.values()) - before - batches
    return sum(sum(node.received.values()) for node in nodes) / gained


def test_full_mesh_of_16_receives_each_batch_about_once() -> None:
    world = World(0)
    nodes = [world.node() for _ in range(16)]
    world.mesh(nodes)
    assert copies_per_batch_and_node(world, nodes, 150, 5.0) <= 1.1
    assert world.violations == []


def test_random_graph_of_degree_6_receives_each_batch_about_once() -> None:
    world = World(0)
    nodes = [world.node() for _ in range(20)]
    world.random_graph(nodes, 6)
    assert copies_per_batch_and_node(world, nodes, 150, 5.0) <= 1.1


@pytest.mark.parametrize(("shape", "size", "most"), [("mesh", 16, 1.2), ("graph", 20, 1.1)])
def test_a_live_record_is_hardly_later_than_by_flooding(shape: str, size: int, most: float) -> None:
    """Flooding as it would be without limits of bandwidth: a copy over every link, and none delays another."""
    ratios = times_of_flooding(World(0), shape, size)
    assert statistics.median(ratios) <= most
    assert statistics.fmean(ratios) <= most + 0.1


def times_of_flooding(world: World, shape: str, size: int) -> list[float]:
    """How much later a record is at a node, for a record of each node and every other one."""
    nodes = [world.node() for _ in range(size)]
    if shape == "mesh":
        world.mesh(nodes)
    else:
        world.random_graph(nodes, 6)
    for node in nodes:
        node.append(1, 10)
    world.run_until(world.is_converged, 30)
    world.run(5.0)
    ratios = []
    for source in nodes:
        flooded, started = world.flooded(source), world.now
        seq = source.append(1, 100).seq_end
        waiting = [node for node in nodes if node is not source]
        while waiting:
            world.step()
            there = [node for node in waiting if node.log.heads[source.id].seq == seq]
            ratios += [(world.now - started) / flooded[node.id] for node in there]
            waiting = [node for node in waiting if node not in there]
        world.run(1.0)
    return ratios


def test_a_full_mesh_of_writers_at_full_speed_receives_each_batch_about_once() -> None:
    world = World(77)
    nodes = [world.node(apply_s=0.02) for _ in range(10)]
    world.mesh(nodes)
    assert copies_per_batch_and_node(world, nodes, 600, 1.2) <= 1.1


@pytest.mark.parametrize("seed", range(5))
def test_links_that_break_and_come_back(seed: int) -> None:
    world = World(seed)
    nodes = [world.node() for _ in range(8)]
    world.random_graph(nodes, 4)
    pairs = [world.ends[key] for key in world.ends]
    write_somewhere(world, nodes, 80, 10.0)

    def break_one() -> None:
        if world.ends:
            key = world.random.choice(sorted(world.ends))
            one, other = world.ends[key]
            world.cut(key)
            world.after(world.random.uniform(0.01, 3.0), lambda: world.link(one, other))

    for _ in range(40):
        world.after(world.random.uniform(0, 10.0), break_one)
    world.run(14.0, check_every=7)
    assert len(world.ends) == len(pairs)
    world.run_until(world.is_converged, 20, check_every=7)
    assert world.violations == [], f"seed {seed}"


@pytest.mark.parametrize("seed", range(6))
def test_nodes_that_restart_with_what_was_durable(seed: int) -> None:
    world = World(seed)
    nodes = [world.node() for _ in range(7)]
    world.ring(nodes)
    world.link(nodes[0], nodes[3])
    write_somewhere(world, nodes, 60, 8.0)

    def restart() -> None:
        node = world.random.choice(nodes)
        others = []
        for key in world.links_of(node):
            one, other = world.ends[key]
            others.append(other if one is node else one)
            world.cut(key)
        node.restart()
        for other in others:
            world.after(world.random.uniform(0.0, 0.5), lambda other=other: world.link(node, other))

    for _ in range(12):
        world.after(world.random.uniform(0, 8.0), restart)
    world.run(9.0, check_every=7)
    world.run_until(world.is_converged, 20, check_every=7)
    assert world.violations == [], f"seed {seed}"


@pytest.mark.parametrize("seed", range(2))
def test_an_empty_node_catches_up_while_everybody_writes(seed: int) -> None:
    world = World(seed)
    old = [world.node() for _ in range(5)]
    world.mesh(old)
    write_somewhere(world, old, 200, 2.0)
    world.run(2.0)
    world.run_until(world.is_converged, 10)
    late = world.node()
    for node in old:
        world.link(late, node)
    write_somewhere(world, old, 50, 2.0)
    world.run(2.0, check_every=7)
    world.run_until(world.is_converged, 10, check_every=7)
    assert world.violations == [], f"seed {seed}"


def test_a_slow_applier_delays_nobody_and_is_not_sent_everything_twice() -> None:
    world = World(5)
    nodes = [world.node(apply_s=0.002) for _ in range(5)]
    slow = world.node(apply_s=7.0)
    world.mesh([*nodes, slow])
    for node in nodes:
        node.append(1, 10)
    world.run(40.0)
    slow.received.clear()
    write_somewhere(world, nodes, 40, 5.0)
    world.run(6.0)
    heads = [node.digest for node in nodes]
    assert all(head == heads[0] for head in heads), "the fast ones are done while the slow one still applies"
    world.run_until(world.is_converged, 200)
    assert sum(slow.received.values()) <= 1.1 * len(slow.received)


@pytest.mark.parametrize("seed", range(4))
def test_t39_lying_heads_cost_a_stall_and_not_the_log(seed: int) -> None:
    world = World(seed)
    nodes = [world.node() for _ in range(4)]
    liars = [world.liar([node.id for node in nodes]) for _ in range(2)]
    for liar in liars:
        for node in nodes:
            world.link(node, liar)
    world.line(nodes)
    write_somewhere(world, nodes, 20, 20.0)
    world.run(20.0)
    assert world.run_until(world.is_converged, 15) < 15
    # Each liar had its chance with each node by now: what is written now takes no stall (seconds) any more.
    world.run(40.0)
    for _ in range(10):
        nodes[0].append(1, 10)
        assert world.run_until(world.is_converged, 5) < 2.5, f"seed {seed}"
        world.run(1.7)
    for node in nodes:
        assert sorted(set(node.penalized)) == sorted(liar.id for liar in liars), "a claim on our own log is scored"
        assert node.held_for == 0, "and does not stop local writes"
        assert node.holds == [3.0], "it delays them once per start"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", ["line", "mesh"])
def test_t36_a_fork_freezes_its_origin_everywhere(shape: str, seed: int) -> None:
    """Two copies of one identity write on two sides of the world."""
    world = World(seed)
    nodes = [world.node() for _ in range(6)]
    getattr(world, shape)(nodes)
    for _ in range(3):
        nodes[0].append(2, 20)
    nodes[3].append(1, 10)
    world.run_until(world.is_converged, 20)
    forked = nodes[0].id
    log = list(nodes[0].log.batches[forked])
    extra = make_batch(forked, log, 1, 5, b"left")
    other = make_batch(forked, log, world.random.randint(1, 3), 5, b"right")
    later = make_batch(forked, [*log, other], 1, 5)
    for node, batches in ((nodes[0], [extra]), (nodes[5], [other, later])):
        for batch in batches:
            node.log.add(batch)
            node.exchange.moved({forked}, world.now)
            node.pump()
    world.run_until(lambda: all(forked in node.log.proofs for node in nodes), 20)
    world.run_until(world.is_converged, 20)
    assert all(node.log.heads[forked].seq == 6 for node in nodes), "what is below the proof stays and is served"
    nodes[3].append(1, 10)
    world.run_until(world.is_converged, 20)
    assert world.violations == [], f"seed {seed}"


@pytest.mark.parametrize("seed", range(4))
def test_t36_old_forks_are_found_when_two_worlds_meet(seed: int) -> None:
    """Both sides are idle and of any length: heads alone must betray the fork, wherever batches begin and end."""
    world = World(seed)
    left, right = [world.node() for _ in range(3)], [world.node() for _ in range(3)]
    forked = peer_id(999)
    for side in (left, right):
        batches = []
        for _ in range(world.random.randint(1, 6)):
            batches.append(make_batch(forked, batches, world.random.randint(1, 4), world.random.randint(0, 9)))
        for node in side:
            for batch in batches:
                node.log.add(batch)
            node.restart()
        world.line(side)
    world.run(5.0)
    world.link(left[0], right[0])
    assert left[0].digest != right[0].digest
    world.run_until(lambda: all(forked in node.log.proofs for node in world.nodes), 20)
    world.run_until(world.is_converged, 20)


@pytest.mark.parametrize("seed", range(5))
def test_t42_an_own_log_lost_is_fetched_back_before_anything_new_is_written(seed: int) -> None:
    world = World(seed)
    nodes = [world.node() for _ in range(4)]
    world.mesh(nodes)
    for _ in range(30):
        nodes[0].append(5, 100)
    world.run_until(world.is_converged, 20)
    for key in world.links_of(nodes[0]):
        world.cut(key)
    victim = nodes[0]
    keep = world.random.randint(0, 29)
    victim.log.cut(victim.id, keep)
    victim.restart()
    for node in nodes[1:]:
        world.link(node, victim)
    world.run_until(lambda: victim.held_for != 0, 5)
    assert victim.log.heads[victim.id].seq < 150
    world.run_until(lambda: victim.held_for == 0, 10)
    assert victim.log.heads[victim.id].seq == 150, f"seed {seed}"
    assert victim.holds == [3.0, None] or victim.holds == [3.0], "a claim delays, a signed batch holds"
    victim.append(1, 10)
    world.run_until(world.is_converged, 20)
    assert not any(node.penalized for node in nodes)


@pytest.mark.parametrize("seed", range(5))
def test_t62_a_damaged_log_is_fetched_again(seed: int) -> None:
    world = World(seed)
    nodes = [world.node() for _ in range(4)]
    world.random_graph(nodes, 3)
    for _ in range(40):
        nodes[0].append(5, 2000)
    world.run(world.random.uniform(0, 0.2))
    origin = nodes[0].id
    victim = nodes[2]
    kept = world.random.randint(0, max(0, len(victim.log.batches.get(origin, [])) - 1))
    if origin in victim.log.batches:
        victim.log.cut(origin, kept)
        victim.exchange.moved({origin}, world.now)
        victim.pump()
    world.run_until(world.is_converged, 20, check_every=5)
    assert world.violations == [], f"seed {seed}"


def test_a_store_that_cannot_write_gets_everything_when_it_can_again() -> None:
    world = World(3)
    nodes = [world.node() for _ in range(3)]
    world.line(nodes)
    nodes[2].stores = False
    for _ in range(20):
        nodes[0].append(3, 50)
    world.run(30.0)
    assert nodes[2].log.heads.get(nodes[0].id) is None
    sent = nodes[1].messages_out
    world.run(10.0)
    assert nodes[1].messages_out == sent, "nothing is sent to it in vain"
    nodes[2].stores = True
    world.run_until(world.is_converged, 5)


def test_t37_a_carrier_of_what_is_not_admitted_is_not_scored_and_goes_quiet() -> None:
    world = World(4)
    nodes = [world.node() for _ in range(3)]
    world.mesh(nodes)
    stranger = nodes[0].id
    nodes[2].admits = lambda origin, via: origin != stranger
    for _ in range(10):
        nodes[0].append(2, 20)
        nodes[1].append(1, 10)
        world.run(0.5)
    world.run(5.0)
    assert nodes[2].penalized == []
    assert stranger not in nodes[2].log.heads
    assert nodes[2].log.heads[nodes[1].id].seq == 10
    assert sum(n for (origin, _), n in nodes[2].received.items() if origin == stranger) <= 4
    quiet = world.steps
    world.run(60.0)
    assert world.steps - quiet < 10, "nothing is tried again and again"


def test_an_idle_world_does_nothing() -> None:
    world = World(6)
    nodes = [world.node() for _ in range(6)]
    world.mesh(nodes)
    write_somewhere(world, nodes, 30, 1.0)
    world.run(1.0)
    world.run_until(world.is_converged, 10)
    world.run(5.0)
    before = world.steps
    world.run(3600.0)
    assert world.steps == before
    assert all(node.exchange.next_deadline() == float("inf") for node in nodes)


@pytest.mark.parametrize("seed", range(16))
def test_everything_at_once(seed: int) -> None:
    """Slow disks, liars, broken links, restarts and damage in one world of random shape."""
    world = World(seed)
    dice = world.random
    nodes = [world.node(apply_s=dice.choice([0.001, 0.01, 0.5, 2.0])) for _ in range(dice.randint(3, 10))]
    world.random_graph(nodes, dice.randint(2, 5))
    for _ in range(dice.randint(0, 2)):
        liar = world.liar([node.id for node in dice.sample(nodes, 2)])
        for node in dice.sample(nodes, 2):
            world.link(node, liar)
    write_somewhere(world, nodes, dice.randint(20, 120), 10.0)

    def break_link() -> None:
        if world.ends:
            key = dice.choice(sorted(world.ends))
            one, other = world.ends[key]
            world.cut(key)
            world.after(dice.uniform(0.01, 4.0), lambda: world.link(one, other))

    def restart() -> None:
        node = dice.choice(nodes)
        others = [next(end for end in world.ends[key] if end is not node) for key in world.links_of(node)]
        for key in world.links_of(node):
            world.cut(key)
        node.restart()
        for other in others:
            world.after(dice.uniform(0.0, 0.5), lambda other=other: world.link(node, other))

    def damage() -> None:
        node = dice.choice(nodes)
        origin = dice.choice(sorted(node.log.batches) or [node.id])
        if origin != node.id and node.log.batches.get(origin):
            node.log.cut(origin, dice.randint(0, len(node.log.batches[origin]) - 1))
            node.exchange.moved({origin}, world.now)
            node.pump()

    for trouble, times in ((break_link, 20), (restart, 5), (damage, 5)):
        for _ in range(dice.randint(0, times)):
            world.after(dice.uniform(0.0, 10.0), trouble)
    world.run(15.0, check_every=11)
    world.run_until(world.is_converged, 120, check_every=11)
    assert world.violations == [], f"seed {seed}"
