"""A registry's counters, as Prometheus reads them: plain numbers, turned into text only when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class RegistryMetrics:
    """What became of the requests since the start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()

    def count(self, route: str, outcome: str) -> None:
        """Count a request; both words come from a fixed list, so there are few of them."""
        self.requests[route, outcome] += 1

    def exposition(self, size: int | None) -> bytes:
        """The text of all metrics; `size` is the number of entries, None if the table cannot tell."""
        registry = CollectorRegistry()
        registry.register(_Once(self.requests, size))
        return generate_latest(registry)


class _Once(Collector):
    def __init__(self, requests: Counter[tuple[str, str]], size: int | None) -> None:
        self._requests = requests
        self._size = size

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "p2p_registry_requests", "Requests by what became of them.", labels=["route", "outcome"]
        )
        for labels, count in sorted(self._requests.items()):
            requests.add_metric(labels, count)
        yield requests
        yield GaugeMetricFamily(
            "p2p_registry_table_up", "Whether the table of entries answers.", value=int(self._size is not None)
        )
        if self._size is not None:
            yield GaugeMetricFamily("p2p_registry_entries", "Entries in the table.", value=self._size)
