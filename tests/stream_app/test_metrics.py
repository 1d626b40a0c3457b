from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from schemas import event
from schemas.artefact_store import ArtefactStore
from stream_app.broker import Record
from stream_app.champion import Champion
from stream_app.engine import store_directory
from stream_app.health import Health
from stream_app.host import Host
from stream_app.metrics import WorkerMetrics
from tests.stream_app.tiny_model import TinyModel
from tests.stream_app.world import Worker, World

ITEMS = [f"i{n}" for n in range(8)]
NOW_S = 10.0


class Scraped:
    """A worker on a Kafka in memory, and what Prometheus reads of it."""

    def __init__(self, directory: Path) -> None:
        world = World(directory)
        self.worker = world.workers["a"] = Worker(world, "a")
        self.engine = self.worker.engine
        self.engine._clock = lambda: NOW_S
        self.host = Host(self.worker.settings)
        champion = Champion(ArtefactStore(str(directory / "artefacts")), self.engine.swap)
        health = Health(self.host, self.engine, stuck_after_s=60)
        self._registry = CollectorRegistry()
        self._registry.register(
            WorkerMetrics(
                self.host, self.engine, champion, health, store_directory(self.worker.settings), clock=lambda: NOW_S
            )
        )

    def samples(self) -> dict[str, float]:
        """By name and labels, as they are written."""
        text = generate_latest(self._registry).decode()
        return {
            sample.name + "".join(f" {label}={value}" for label, value in sample.labels.items()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[Scraped]:
    scraped = Scraped(tmp_path)
    scraped.worker.own({0, 1})
    yield scraped
    scraped.engine.close()


def test_a_worker_that_did_nothing_has_every_counter_at_zero(scraped: Scraped):
    # else the first dead letter or refused model would be no increase
    counters = {name: value for name, value in scraped.samples().items() if name.split()[0].endswith("_total")}
    assert {name for name, value in counters.items() if value} <= {"recommender_stage_seconds_total stage=recover"}
    assert {"recommender_dead_letters_total reason=value", "recommender_refused_models_total"} <= set(counters)


def test_no_model_has_no_version_and_no_age(scraped: Scraped):
    assert {name for name in scraped.samples() if name.startswith("recommender_model_")} == set()
    scraped.engine.swap(TinyModel(4_000, ITEMS).load())
    samples = scraped.samples()
    assert samples["recommender_model_version"] == 4_000
    assert samples["recommender_model_age_seconds"] == NOW_S - 4
    assert samples["recommender_swaps_total"] == 1


def test_latency_is_measured_from_the_time_of_the_kafka_record(scraped: Scraped):
    scraped.engine.swap(TinyModel(1, ITEMS).load())
    for user in "uuvw":
        scraped.worker.world.produce(user, "i0")  # the n-th of a partition at second n
    expected = [NOW_S - record.timestamp_ms / 1000 for log in scraped.worker.world.log.values() for record in log]
    scraped.worker.work(50)
    samples = scraped.samples()
    assert samples["recommender_event_to_list_seconds_count"] == samples["recommender_lists_total"] == 4
    assert samples["recommender_event_to_list_seconds_sum"] == pytest.approx(sum(expected))


def test_without_a_model_there_is_no_latency(scraped: Scraped):
    scraped.worker.world.produce("u", "i0")
    scraped.worker.work(50)
    samples = scraped.samples()
    assert (samples["recommender_events_total"], samples["recommender_event_to_list_seconds_count"]) == (1, 0)


def test_dead_letters_are_counted_by_the_field_that_was_wrong(scraped: Scraped):
    scraped.worker.world.produce_rubbish(0)
    scraped.worker.work(50)
    counted = {name: v for name, v in scraped.samples().items() if "dead_letters_total" in name and v}
    assert counted == {"recommender_dead_letters_total reason=value": 1}


def test_late_events_are_counted(scraped: Scraped):
    scraped.worker.world.log[1] += [
        Record(offset, b"u", event.encode(event.Event("u", "i0", time_ms)), 0)
        for offset, time_ms in enumerate((5_000, 3_000, 4_000))
    ]
    scraped.worker.work(50)
    samples = scraped.samples()
    assert (samples["recommender_events_total"], samples["recommender_late_events_total"]) == (3, 1)


def test_a_round_and_its_stages_are_timed(scraped: Scraped):
    scraped.engine.swap(TinyModel(1, ITEMS).load())
    before = scraped.samples()
    scraped.worker.world.produce("u", "i0")
    scraped.worker.world.produce("v", "i0")
    scraped.worker.work(50)
    samples = scraped.samples()
    stages = [name for name in samples if name.startswith("recommender_stage_seconds_total")]
    ran = {name.partition("=")[2] for name in stages if samples[name] > before[name]}
    assert ran == {"intake", "advance", "compute", "encode", "send", "store"}
    spent = sum(samples[name] - before[name] for name in stages)
    assert 0 < spent <= samples["recommender_round_seconds_sum"]
    assert samples["recommender_round_records_sum"] == 2


def test_partitions_that_are_not_open_yet_are_recovering(scraped: Scraped):
    scraped.host._owned = {0, 1, 2}
    samples = scraped.samples()
    assert (samples["recommender_partitions"], samples["recommender_recovering_partitions"]) == (3, 1)


def test_no_label_could_hold_a_user(scraped: Scraped):
    scraped.engine.swap(TinyModel(1, ITEMS).load())
    scraped.host.lag = {0: 5}
    scraped.worker.world.produce("a user's id", "i0")
    scraped.worker.work(50)
    labels = {label.partition("=")[0] for name in scraped.samples() for label in name.split()[1:]}
    assert labels == {"le", "partition", "reason", "stage"}
