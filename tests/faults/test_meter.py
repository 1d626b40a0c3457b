"""Whether a process grows."""

import os

from ops.chaos.meter import Sample, sample, trend

MIB = 1 << 20


def life(memory_mib: list[float], handles: list[int], every_s: float = 10.0) -> list[Sample]:
    return [
        Sample(number * every_s, int(mib * MIB), count)
        for number, (mib, count) in enumerate(zip(memory_mib, handles, strict=True))
    ]


def test_a_process_that_fills_its_caches_first_and_then_stays_is_flat():
    found = trend(life([100 + 10 * min(n, 15) + n % 3 for n in range(100)], [50 + n % 5 for n in range(100)]))
    assert found is not None
    assert found.flat is True


def test_memory_that_leaks_is_seen():
    found = trend(life([100 + n for n in range(100)], [50] * 100))
    assert found is not None
    assert found.flat is False


def test_handles_that_leak_are_seen():
    found = trend(life([100.0] * 100, [50 + n // 5 for n in range(100)]))
    assert found is not None
    assert found.flat is False


def test_minutes_are_too_short_to_say():
    found = trend(life([100 + n for n in range(100)], [50] * 100, every_s=1.0))
    assert found is not None
    assert found.flat is None
    assert trend([]) is None


def test_a_sample_is_what_the_kernel_says_of_a_process():
    before = sample(os.getpid())
    assert before is not None
    opened = [os.dup(0) for _ in range(20)]
    after = sample(os.getpid())
    for handle in opened:
        os.close(handle)
    assert after is not None
    assert after.handles - before.handles == 20
    assert 10 * MIB < after.memory < 10_000 * MIB
    assert sample(2**30) is None
