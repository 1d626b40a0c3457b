"""All benches in a small form, for their ratios alone: on so few events their other figures say little.

Rates are low, so that a machine that has other work to do can keep up with them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from ops.bench import catalogue, history, latency, recovery, state, swap, throughput
from ops.bench.findings import Findings
from ops.bench.recorded import fallen

_TRIES: Final = 3

BENCHES: Final[Mapping[str, Callable[[], Findings]]] = {
    "throughput": partial(throughput.bench, 30_000, 3_416, 1, 500, ()),
    "latency": partial(latency.bench, [200], 3.0, 1, 2.0),
    "history": partial(history.bench, (10, 200, 1_000), 50, 1, None),
    "catalogue": partial(catalogue.bench, [3_416, 57_289], 3),
    "state": partial(state.bench, 2_000, 10_000),
    "swap": partial(swap.bench, 2_000, 200, 4.0, 1, 4.0),
    "recovery": partial(recovery.bench, 20_000, 4, 1),
}


def measure(name: str, recorded: Mapping[str, float]) -> Findings:
    """The last run of a bench with the best of each ratio of up to three runs, while one is below half of `recorded`.

    A moment's load halves a ratio once, what has become slow halves it each time.
    """
    best: dict[str, float] = {}
    for _ in range(_TRIES):
        found = BENCHES[name]()
        best = {ratio: max(value, best.get(ratio, value)) for ratio, value in found.ratios.items()}
        if found.problem or not fallen(best, {one: recorded[one] for one in recorded if one in best}):
            break
    return found._replace(ratios=best)
