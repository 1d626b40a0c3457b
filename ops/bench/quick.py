"""All benches in a small form, for their ratios alone: on so few events their other figures say little.

Rates are low, so that a machine that has other work to do can keep up with them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from ops.bench import catalogue, history, latency, recovery, state, swap, throughput
from ops.bench.findings import Findings

BENCHES: Final[Mapping[str, Callable[[], Findings]]] = {
    "throughput": partial(throughput.bench, 50_000, 3_416, 1, 1_000, ()),
    "latency": partial(latency.bench, [200], 4.0, 1),
    "history": partial(history.bench, (10, 200, 1_000), 50, 1, None),
    "catalogue": partial(catalogue.bench, [3_416, 57_289], 3),
    "state": partial(state.bench, 2_000, 20_000),
    "swap": partial(swap.bench, 2_000, 200, 4.0, 1),
    "recovery": partial(recovery.bench, 20_000, 4, 1),
}
