"""Whole worlds of exchange machines: every one converges, and in the steady state a batch reaches a node once."""

from __future__ import annotations

import random

import pytest

from tests.sim.exchange_world import Node, World


def write_somewhere(world: World, nodes: list[Node], batches: int, spread_s: float) -> None:
    """Let random nodes append at random moments."""
    for _ in range(batches):
        node = world.random.choice(nodes)
        records, size = world.random.randint(1, 20), world.random.randint(0, 400)
        world.after(world.random.uniform(0, spread_s), lambda node=node, r=records, s=size: node.append(r, s))


@pytest.mark.parametrize("seed", range(6))
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


@pytest.mark.parametrize("seed", range(3))
def test_full_mesh_of_16_receives_each_batch_about_once(seed: int) -> None:
    world = World(seed)
    nodes = [world.node() for _ in range(16)]
    world.mesh(nodes)
    copies = copies_per_batch_and_node(world, nodes, 150, 5.0)
    assert copies <= 1.1, f"seed {seed}"
    assert world.violations == []


@pytest.mark.parametrize("seed", range(3))
def test_random_graph_of_degree_6_receives_each_batch_about_once(seed: int) -> None:
    world = World(seed)
    nodes = [world.node() for _ in range(20)]
    world.random_graph(nodes, 6)
    copies = copies_per_batch_and_node(world, nodes, 150, 5.0)
    assert copies <= 1.1, f"seed {seed}"


if __name__ == "__main__":
    for seed in range(5):
        world = World(seed)
        nodes = [world.node() for _ in range(16)]
        world.mesh(nodes)
        print(seed, copies_per_batch_and_node(world, nodes, 300, 5.0), world.steps)
        world = World(seed)
        nodes = [world.node() for _ in range(20)]
        world.random_graph(nodes, 6)
        print(seed, copies_per_batch_and_node(world, nodes, 300, 5.0), world.steps)
    random.seed()
