"""The schedule of faults."""

from collections import Counter
from itertools import islice

from ops.chaos.schedule import SESSION_S, Kind, schedule

NAMES = ["a", "b", "c"]


def test_the_same_seed_gives_the_same_faults():
    assert list(islice(schedule(7, Kind, NAMES), 50)) == list(islice(schedule(7, list(Kind)[::-1], NAMES), 50))
    assert list(islice(schedule(7, Kind, NAMES), 50)) != list(islice(schedule(8, Kind, NAMES), 50))


def test_every_kind_comes_once_before_any_comes_again():
    faults = list(islice(schedule(1, Kind, NAMES), 3 * len(Kind)))
    for start in range(0, len(faults), len(Kind)):
        assert Counter(fault.kind for fault in faults[start : start + len(Kind)]) == Counter(Kind)


def test_a_frozen_worker_loses_its_session_and_a_paused_broker_ends_none():
    faults = list(islice(schedule(1, Kind, NAMES), 50 * len(Kind)))
    assert min(fault.seconds for fault in faults if fault.kind in (Kind.FREEZE, Kind.ABSENCE)) > SESSION_S
    assert max(fault.seconds for fault in faults if fault.kind is Kind.BROKER_PAUSE) < SESSION_S
    assert {fault.target for fault in faults} == set(NAMES)
    assert all(0.5 <= fault.calm_s <= 4.0 for fault in faults)
