"""What a monitoring system collects of the live lists' worth."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ops.live import Answer


class Metrics:
    """Counts answers; hits and popular hits are of the same events."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._events = Counter(
            "recommender_live_events", "Events of users who had a list before", registry=self._registry
        )
        self._hits = Counter(
            "recommender_live_hits", "Of these, events whose item was in that list", registry=self._registry
        )
        self._popular_hits = Counter(
            "recommender_live_popular_hits",
            "Of these, events of an item that was most popular",
            registry=self._registry,
        )
        self._latency = Histogram(
            "recommender_live_latency_seconds",
            "From the record of an event to the record of the first list that covers it",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self._registry,
        )

    def count(self, answer: Answer) -> None:
        """Take in one answer."""
        self._latency.observe(answer.latency_ms / 1000)
        if answer.hit is not None:
            self._events.inc()
            self._hits.inc(answer.hit)
            self._popular_hits.inc(answer.popular_hit)

    def exposition(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self._registry)
