from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Reference

from schemas import event
from schemas.event import Event
from stream_app.broker import Record
from stream_app.counters import REASONS, Histogram, Stage, Stopwatch
from stream_app.intake import take_in

BOUNDS = (0.001, 0.5, 1, 300)


@given(st.lists(st.tuples(st.sampled_from([*BOUNDS, 0.0, 0.2, 299.9, 1e9]), st.integers(1, 3))))
def test_a_histogram_counts_as_prometheus_own_does(observations: list[tuple[float, int]]):
    histogram = Histogram(BOUNDS)
    reference = Reference("reference", "", buckets=BOUNDS, registry=CollectorRegistry())
    for value, times in observations:
        histogram.observe(value, times)
        for _ in range(times):
            reference.observe(value)
    (family,) = reference.collect()
    wanted = [(float(s.labels["le"]), s.value) for s in family.samples if s.name == "reference_bucket"]
    assert histogram.cumulative() == wanted
    (wanted_sum,) = (s.value for s in family.samples if s.name == "reference_sum")
    assert abs(histogram.sum - wanted_sum) <= 1e-9 * wanted_sum


def test_a_stopwatch_gives_every_moment_to_one_stage():
    watch = Stopwatch()
    watch.enter(Stage.INTAKE)
    began = watch.since
    for stage in (Stage.SEND, Stage.INTAKE, None):
        watch.enter(stage)
    assert sum(watch.seconds.values()) == watch.since - began
    ended = dict(watch.seconds)
    watch.enter(Stage.STORE)
    assert watch.seconds == ended, "a rest is no stage's"


VALID = event.encode(Event("u", "i", 1))
FIELDS = st.dictionaries(
    st.sampled_from(["user_id", "item_id", "timestamp", "event_type", "event_id", "other"]),
    st.one_of(st.none(), st.integers(), st.text(max_size=3), st.just("x" * 300), st.just("u")),
)


@given(
    st.one_of(
        st.binary(max_size=20), st.just(VALID), st.just(None), st.just(bytes(1 << 17)), FIELDS.map(event.pack_json)
    ),
    st.one_of(st.none(), st.just(b"u"), st.just(b""), st.just(b"\xff"), st.just(b"x" * 300)),
    st.booleans(),
)
def test_the_reason_of_a_dead_letter_is_one_of_a_few(value: bytes | None, key: bytes | None, skipped: bool):
    letters = take_in([Record(0, key, value, 1)], 0, {0} if skipped else ()).dead_letters
    assert {letter.reason.partition(":")[0] for letter in letters} <= set(REASONS)
