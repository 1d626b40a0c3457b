"""What Prometheus scrapes of a worker; every number is read when it is asked for, and none is labelled with a user."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import isinf
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from stream_app.champion import Champion
from stream_app.counters import Histogram
from stream_app.engine import Engine
from stream_app.health import Health
from stream_app.host import Host


class WorkerMetrics(Collector):
    """The metrics of one worker; their names begin with ``recommender_``."""

    def __init__(
        self,
        host: Host,
        engine: Engine,
        champion: Champion,
        health: Health,
        stores: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read from the worker's parts.

        Args:
            host: of the lag and the partitions.
            engine: of the counters and the model.
            champion: of the refused models.
            health: of what the probes say.
            stores: directory of the users' states.
            clock: seconds since the epoch, for the model's age.
        """
        self._host = host
        self._engine = engine
        self._champion = champion
        self._health = health
        self._stores = stores
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        yield from self._traffic()
        yield from self._rounds()
        yield from self._model()
        yield from self._state()

    def _traffic(self) -> Iterator[Metric]:
        counters = self._engine.counters
        yield _counter("events", "Events applied to their users' states.", counters.events)
        yield _counter("lists", "Lists sent and acknowledged.", counters.lists)
        yield _counter("replayed_events", "Events that came again after they were applied.", counters.replayed)
        yield _counter("repeated_events", "Events dropped because their event id was known.", counters.repeated)
        yield _counter("late_events", "Events applied although a newer one of their user came first.", counters.late)
        yield _counter("expired_events", "Offsets that expired before they were read.", self._host.expired)
        letters = CounterMetricFamily(
            "recommender_dead_letters",
            "Records that could not be read, by the field that was wrong.",
            labels=["reason"],
        )
        for reason, count in counters.dead_letters.items():
            letters.add_metric([reason], count)
        yield letters
        lag = GaugeMetricFamily(
            "recommender_lag_records", "Records in the log that are not done.", labels=["partition"]
        )
        for partition, records in self._host.lag.items():
            lag.add_metric([str(partition)], records)
        yield lag
        yield _histogram(
            "event_to_list_seconds",
            "From a record's Kafka timestamp to the acknowledgement of its list, while a model serves.",
            counters.event_to_list_s,
        )

    def _rounds(self) -> Iterator[Metric]:
        counters = self._engine.counters
        yield _histogram("round_records", "Records that one round took.", counters.round_records)
        yield _histogram("round_seconds", "Duration of one round.", counters.round_s)
        stages = CounterMetricFamily(
            "recommender_stage_seconds", "Time that the engine was at a stage.", labels=["stage"]
        )
        for stage, seconds in self._engine.stopwatch.seconds.items():
            stages.add_metric([stage], seconds)
        yield stages

    def _model(self) -> Iterator[Metric]:
        version = self._engine.model_version
        served = GaugeMetricFamily("recommender_model_version", "Version of the model in service; absent without one.")
        age = GaugeMetricFamily("recommender_model_age_seconds", "Since the export of the model in service.")
        if version is not None:
            served.add_metric([], version)
            age.add_metric([], self._clock() - version / 1000)
        yield served
        yield age
        yield _counter("swaps", "Models put in service.", self._engine.counters.swaps)
        yield _counter("refused_models", "Announced models that could not be served.", self._champion.refused)
        unread = "Attempts to read an announced model that failed and are repeated."
        yield _counter("unread_models", unread, self._champion.unread)
        yield _counter("rebased_users", "States folded again under another model.", self._engine.counters.rebased)
        background = "Users, active lately, who got a list of the model in service without an event."
        yield _counter("background_users", background, self._engine.counters.rebased_in_background)
        ratio = "Share of the users that were looked at for that since the model came, about; 1 when it is over."
        yield _gauge("background_ratio", ratio, self._engine.rebasing_ratio)
        yield _histogram("background_slice_seconds", "Duration of a slice of that.", self._engine.counters.slice_s)

    def _state(self) -> Iterator[Metric]:
        counters, owned, open_ = self._engine.counters, self._host.owned or (), self._engine.partitions
        yield _gauge("worker_live", "1 while /live says ok.", not self._health.stuck())
        yield _gauge("worker_ready", "1 while /ready says ok.", not self._health.waits_for())
        yield _gauge("partitions", "Partitions that the group gave to this worker.", len(owned))
        yield _gauge("recovering_partitions", "Those of them that are not open yet.", len(set(owned) - set(open_)))
        yield _counter("recovered_records", "Changelog records read to open partitions.", counters.recovered)
        yield _counter("healed_records", "State records put right after another writer.", counters.healed)
        yield _gauge("store_bytes", "Size of the users' states on disk.", _size(self._stores))


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(f"recommender_{name}", documentation, value=value)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"recommender_{name}", documentation, value=value)


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    buckets = [("+Inf" if isinf(bound) else f"{bound:g}", count) for bound, count in histogram.cumulative()]
    return HistogramMetricFamily(f"recommender_{name}", documentation, buckets=buckets, sum_value=histogram.sum)


def _size(directory: Path) -> int:
    """Bytes of all files; RocksDB may remove some meanwhile."""
    size = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            with suppress(FileNotFoundError):
                size += Path(folder, file).stat().st_size
    return size
