"""Prometheus: plain counters read when they are asked for, in a registry of the application's own.

Nothing is counted twice and nothing is kept per peer here; a peer has a series only while it is among those furthest
behind, so that the number of series is bounded whoever connects. No histograms: rendering them per peer held up the
loop for tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec.structs import asdict
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from http_control.control import Control
from p2p import NodeClosed, NotStarted

COUNTED = ("handshakes_started", "handshakes_completed", "handshakes_failed", "connect_attempts", "connect_deduped",
           "connect_failures", "backoff_skips")  # fmt: skip
MORE = ("messages_dropped", "messages_unsent", "hook_failures", "ignored_messages", "links_rested")

RELAYING = {"relay_circuits": "relayed_total", "relay_bytes": "relayed_bytes", "relay_refusals": "refused_total",
            "relay_circuits_broken": "broken_total"}  # fmt: skip
"""Counters of a relay, and what they are called in `node.circuits`."""

DISCOVERY = ("announced", "send_failures", "heard", "too_fast", "crowded", "told", "not_believed")
REGISTRY = ("polls", "announces", "failures", "hints", "hints_refused")
FINDING = (*(f"discovery_{name}" for name in DISCOVERY), *(f"registry_{name}" for name in REGISTRY))
"""Counters of the ways to find others, where a node has them."""


class Nodes(Collector):
    """All nodes of an application, each under its node id and prefix.

    Args:
        controls: asked at every collection: nodes may be registered later.
    """

    def __init__(self, controls: Callable[[], Iterable[Control]]) -> None:
        self._controls = controls

    def collect(self) -> Iterator[Metric]:
        """What is so at this moment."""
        labels = ["node", "prefix"]
        up = GaugeMetricFamily("p2p_up", "Whether the node runs", labels=labels)
        gauges = {
            name: GaugeMetricFamily(f"p2p_{name}", text, labels=labels)
            for name, text in {
                "peers_connected": "Live peers",
                "peers_total": "Distinct peers met since the start",
                "tracked_endpoints": "Endpoints whose failures are remembered",
                "records": "Records held, of all origins",
                "own_records": "Records of the node's own log",
                "store_writable": "Whether the store takes writes",
                "lag_records_max": "Own records that the peer furthest behind does not hold yet",
                "outbox_bytes": "Queued for all peers",
                "circuits_ends": "Circuits through relays that end here",
                "circuits_relayed": "Circuits that this node passes on",
                "leads": "Places that hints named, waiting or dialled lately",
                "leads_waiting": "Places that wait to be dialled",
                "book": "Places in the address book",
                "banned": "Identities that are left alone now",
                "discovered": "Places that discovery heard of lately",
                "registered": "Places that a registry named lately",
                "http_readers": "Open event streams",
            }.items()
        }
        lag = GaugeMetricFamily(
            "p2p_lag_records", "Own records that a peer does not hold; the worst", labels=[*labels, "peer"]
        )
        counters = {
            name: CounterMetricFamily(f"p2p_{name}", f"{name.replace('_', ' ')} since the start", labels=labels)
            for name in (*COUNTED, *MORE, *RELAYING, "http_auth_failures", *FINDING)
        }
        ended = CounterMetricFamily("p2p_links_ended", "Links that ended, by reason", labels=[*labels, "reason"])
        traffic = CounterMetricFamily("p2p_link_bytes", "Bytes of all links", labels=[*labels, "direction"])
        answers = CounterMetricFamily("p2p_http_requests", "HTTP answers, by status", labels=[*labels, "status"])
        for control in self._controls():
            here = [control.node.node_id, control.options.prefix]
            counters["http_auth_failures"].add_metric(here, control.failures)
            gauges["http_readers"].add_metric(here, len(control.happenings.readers) + len(control.lines.readers))
            for status, count in sorted(control.requests.items()):
                answers.add_metric([*here, str(status)], count)
            live = control.node.counters
            for name in MORE:
                counters[name].add_metric(here, getattr(live, name))
            for reason, count in sorted(live.links_ended.items()):
                ended.add_metric([*here, reason.label], count)
            try:
                view = control.view()
            except (NotStarted, NodeClosed):
                up.add_metric(here, 0)
                continue
            up.add_metric(here, 1)
            stats = asdict(control.node.stats())
            for name in COUNTED:
                counters[name].add_metric(here, stats[name])
            circuits = asdict(control.node.circuits)
            for name, field in RELAYING.items():
                counters[name].add_metric(here, circuits[field])
            for found, prefix, names in (
                (control.node.discovery, "discovery", DISCOVERY),
                (control.node.bootstrap, "registry", REGISTRY),
            ):
                if found is not None:
                    for name in names:
                        counters[f"{prefix}_{name}"].add_metric(here, getattr(found.counters, name))
            shown = control.status(view)
            values = stats | asdict(control.node.tables) | {
                "records": shown.records,
                "own_records": shown.own_records,
                "store_writable": int(shown.writable),
                "lag_records_max": shown.lag_records,
                "circuits_ends": circuits["ends"],
                "circuits_relayed": circuits["relayed"],
                "outbox_bytes": sum(control.node.outbox.bytes_waiting().values()),
            }
            for name, gauge in gauges.items():
                if name in values:
                    gauge.add_metric(here, values[name])
            behind = sorted(view.lag(), key=lambda one: -one.records)
            for one in behind[: control.options.limits.metrics_peers_max]:
                lag.add_metric([*here, one.peer], one.records)
            traffic.add_metric([*here, "in"], shown.bytes_in)
            traffic.add_metric([*here, "out"], shown.bytes_out)
        yield up
        yield from gauges.values()
        yield lag
        yield from counters.values()
        yield ended
        yield traffic
        yield answers


def registry_of(controls: Callable[[], Iterable[Control]]) -> CollectorRegistry:
    """A registry with the nodes and nothing else."""
    registry = CollectorRegistry()
    registry.register(Nodes(controls))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(registry)
