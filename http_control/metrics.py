"""Prometheus: plain counters read when they are asked for, in a registry of the application's own.

Nothing is counted twice and nothing is kept per peer here; a peer has a series only while it is among those furthest
behind, so that the number of series is bounded whoever connects. No histograms: rendering them per peer held up the
loop for tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import asdict
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from http_control.control import Control
from http_control.views import View, labelled
from p2p import NodeClosed, NotStarted

COUNTED = ("handshakes_started", "handshakes_completed", "handshakes_failed", "connect_attempts", "connect_deduped",
           "connect_failures", "backoff_skips")  # fmt: skip
MORE = ("messages_dropped", "messages_unsent", "hook_failures", "ignored_messages", "links_rested")

RELAYING = {"relay_circuits": "relayed_total", "relay_bytes": "relayed_bytes"}
"""Counters of a relay, and what they are called in `node.circuits`."""
MEANING = {
    "relay_circuits": "Circuits that this node passed on",
    "relay_bytes": "Bytes in circuits that this node passed on",
}
"""Of counters whose name does not say it."""
RELAYING_ENDS = {"relay_refusals": "refused", "relay_circuits_broken": "broken"}
"""Those that have a reason each."""

DISCOVERY = ("announced", "send_failures", "heard", "too_fast", "crowded", "told", "not_believed")
REGISTRY = ("polls", "announces", "failures", "hints", "hints_refused")
FINDING = (*(f"discovery_{name}" for name in DISCOVERY), *(f"registry_{name}" for name in REGISTRY))
"""Counters of the ways to find others, where a node has them."""

COUNTERS = (*COUNTED, *MORE, *RELAYING, "http_auth_failures", *FINDING)

GAUGES = {
    "up": "Whether the node runs",
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
}


class _Families:
    """All families of one collection, by their names without prefix, and what is put into them."""

    def __init__(self) -> None:
        labels = ["node", "prefix"]
        self._gauges = {name: GaugeMetricFamily(f"p2p_{name}", text, labels=labels) for name, text in GAUGES.items()}
        self._gauges["lag_records"] = GaugeMetricFamily(
            "p2p_lag_records", "Own records that a peer does not hold; the worst", labels=[*labels, "peer"]
        )
        self._counters = {
            name: CounterMetricFamily(
                f"p2p_{name}", f"{MEANING.get(name, name.replace('_', ' '))} since the start", labels=labels
            )
            for name in COUNTERS
        }
        for name, text, label in (
            ("links_ended", "Links that ended, by reason", "reason"),
            ("dials_failed", "Dials that came to nothing, by reason", "reason"),
            ("relay_refusals", "Openings of circuits that were refused, by reason", "reason"),
            ("relay_circuits_broken", "Circuits that were ended as a relay by a limit or a fault, by reason", "reason"),
            ("link_bytes", "Bytes of all links", "direction"),
            ("http_requests", "HTTP answers, by status", "status"),
        ):
            self._counters[name] = CounterMetricFamily(f"p2p_{name}", text, labels=[*labels, label])

    def __iter__(self) -> Iterator[Metric]:
        yield from self._gauges.values()
        yield from self._counters.values()

    def add(self, control: Control) -> None:
        """What is so of one node at this moment."""
        here = [control.node.node_id, control.options.prefix]
        self._add_http(here, control)
        self._add_counters(here, control)
        try:
            view = control.view()
        except (NotStarted, NodeClosed):
            self._gauge(here, {"up": 0})
            return
        self._add_running(here, control)
        self._add_state(here, control, view)

    def _add_http(self, here: list[str], control: Control) -> None:
        self._count(here, {"http_auth_failures": control.failures})
        self._gauge(here, {"http_readers": len(control.happenings.readers) + len(control.lines.readers)})
        self._count_each(here, "http_requests", {str(code): count for code, count in control.requests.items()})

    def _add_counters(self, here: list[str], control: Control) -> None:
        """Counters that are there before the node runs and after it has stopped."""
        live = control.node.counters
        self._count(here, {name: getattr(live, name) for name in MORE})
        self._count_each(here, "links_ended", labelled(live.links_ended))
        self._count_each(here, "dials_failed", labelled(live.dials_failed))

    def _add_running(self, here: list[str], control: Control) -> None:
        """Counters of the parts that a node has while it runs."""
        node = control.node
        stats, circuits = asdict(node.stats()), asdict(node.circuits)
        self._count(here, {name: stats[name] for name in COUNTED})
        self._count(here, {name: circuits[field] for name, field in RELAYING.items()})
        for name, field in RELAYING_ENDS.items():
            self._count_each(here, name, labelled(circuits[field]))
        for found, prefix, names in ((node.discovery, "discovery", DISCOVERY), (node.bootstrap, "registry", REGISTRY)):
            if found is not None:
                self._count(here, {f"{prefix}_{name}": getattr(found.counters, name) for name in names})

    def _add_state(self, here: list[str], control: Control, view: View) -> None:
        """How the node and its log stand now."""
        node, status = control.node, control.status(view)
        circuits = node.circuits
        self._gauge(here, {
            "up": 1,
            "peers_connected": status.peers_connected,
            "peers_total": status.peers_total,
            "records": status.records,
            "own_records": status.own_records,
            "store_writable": int(status.writable),
            "lag_records_max": status.lag_records,
            "circuits_ends": circuits.ends,
            "circuits_relayed": circuits.relayed,
            "outbox_bytes": sum(node.outbox.bytes_waiting().values()),
        })  # fmt: skip
        self._gauge(here, {name: size for name, size in asdict(node.tables).items() if name in GAUGES})
        behind = sorted(view.lag(), key=lambda one: -one.records)
        for one in behind[: control.options.limits.metrics_peers_max]:
            self._gauges["lag_records"].add_metric([*here, one.peer], one.records)
        self._count_each(here, "link_bytes", {"in": status.bytes_in, "out": status.bytes_out})

    def _gauge(self, here: list[str], values: Mapping[str, int]) -> None:
        for name, value in values.items():
            self._gauges[name].add_metric(here, value)

    def _count(self, here: list[str], values: Mapping[str, int]) -> None:
        for name, value in values.items():
            self._counters[name].add_metric(here, value)

    def _count_each(self, here: list[str], name: str, values: Mapping[str, int]) -> None:
        for label, value in sorted(values.items()):
            self._counters[name].add_metric([*here, label], value)


class Nodes(Collector):
    """Nodes, each under its node id and prefix."""

    def __init__(self, controls: Iterable[Control]) -> None:
        self._controls = controls

    def collect(self) -> Iterator[Metric]:
        """What is so at this moment."""
        families = _Families()
        for control in self._controls:
            families.add(control)
        yield from families


def render(controls: Iterable[Control]) -> bytes:
    """The text that Prometheus reads, about these nodes and nothing else."""
    registry = CollectorRegistry()
    registry.register(Nodes(controls))
    return generate_latest(registry)
