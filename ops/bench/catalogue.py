"""Exact lists of ten over a catalogue, beside MatMul and TopK of ONNX Runtime, one thread each.

CPU time, not the clock: other work on the machine disturbs it less. The reference does less: it masks no item.
"""

import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ops.bench.findings import Findings, table
from stream_app.ranking import Ranker, make_ranker

_WIDTH: Final = 64
_LIST: Final = 10
_SEEN: Final = 60
_LISTS: Final = 256
_COMPARED: Final = 16
_REFERENCE_SCORES: Final = 1 << 24
"""that the reference computes at a time: more is no faster"""


class Measured(NamedTuple):
    """One catalogue."""

    items: int
    list_us: float
    """CPU time of a list, of many at a time"""
    single_us: float
    """CPU time of one list alone"""
    reference_us: float
    bytes: int
    """what the ranker keeps"""
    compared: int
    """lists that were compared with the plain computation"""
    wrong: int

    @property
    def ratio(self) -> float:
        """How much less a list costs than the reference's."""
        return self.reference_us / self.list_us


def bench(catalogues: Sequence[int], runs: int) -> Findings:
    """Measure each catalogue; of several runs the least CPU time counts."""
    found = [measure(items, runs) for items in catalogues]
    rows = [["items", "us of CPU a list", "one alone", "MatMul + TopK", "ratio", "MiB", "wrong lists"]]
    rows += [
        [
            f"{one.items:,}",
            f"{one.list_us:,.1f}",
            f"{one.single_us:,.0f}",
            f"{one.reference_us:,.1f}",
            f"{one.ratio:.2f}",
            f"{one.bytes / 2**20:,.0f}",
            f"{one.wrong} of {one.compared}",
        ]
        for one in found
    ]
    return Findings(
        table(rows),
        {"catalogues": [{**one._asdict(), "ratio": round(one.ratio, 3)} for one in found]},
        {f"catalogue_{one.items}": one.ratio for one in found},
        "LISTS ARE WRONG" if any(one.wrong for one in found) else "",
    )


def measure(items: int, runs: int) -> Measured:
    """Rank lists over `items` random items, in turn with the reference."""
    random = np.random.default_rng(0)
    norms = random.uniform(0.02, 0.05, (items, 1)).astype(np.float32)
    embedding: NDArray[np.float32] = random.standard_normal((items, _WIDTH), np.float32) * norms
    bias: NDArray[np.float32] = random.normal(0, 0.07, items).astype(np.float32)
    queries = random.standard_normal((_LISTS, _WIDTH), np.float32)
    seen, lengths = random.integers(0, items, _SEEN * _LISTS).astype(np.int32), np.full(_LISTS, _SEEN)
    tracemalloc.start()
    ranker = make_ranker(embedding.copy(), bias)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    reference = _reference(embedding, bias)
    step = max(1, min(_LISTS, _REFERENCE_SCORES // items))
    ours, single, theirs = [], [], []
    for _ in range(runs):
        ours.append(_cpu_s(lambda: ranker.rank(queries, seen, lengths, _LIST)) / _LISTS)
        single.append(_cpu_s(lambda: ranker.rank(queries[:1], seen[:_SEEN], lengths[:1], _LIST)))
        theirs.append(_cpu_s(lambda: reference.run(None, {"queries": queries[:step]})) / step)
    wrong = _wrong(ranker, embedding, bias, queries[:_COMPARED], seen[: _SEEN * _COMPARED])
    list_us, single_us, reference_us = (round(1e6 * min(times), 1) for times in (ours, single, theirs))
    return Measured(items, list_us, single_us, reference_us, kept, _COMPARED, wrong)


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _wrong(
    ranker: Ranker,
    embedding: NDArray[np.float32],
    bias: NDArray[np.float32],
    queries: NDArray[np.float32],
    seen: NDArray[np.int32],
) -> int:
    """How many lists hold another item than a sort of all float64 scores; one that scores the same to float32 may."""
    count = len(queries)
    rows, _ = ranker.rank(queries, seen, np.full(count, _SEEN), _LIST)
    wrong = 0
    for query, mask, found in zip(queries.astype(np.float64), seen.reshape(count, _SEEN), rows, strict=True):
        scores = embedding @ query + bias
        scores[mask] = -np.inf
        best = np.sort(scores)[: -_LIST - 1 : -1]
        wrong += not np.allclose(scores[found], best, rtol=0, atol=1e-5)
    return wrong


def _reference(embedding: NDArray[np.float32], bias: NDArray[np.float32]) -> onnxruntime.InferenceSession:
    # imported only now: nothing else here needs it
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"queries": TensorProto.FLOAT, "scores": TensorProto.FLOAT, "rows": TensorProto.INT64}
    wired = {name: helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()}
    constants = {"items": np.ascontiguousarray(embedding.T), "bias": bias, "k": np.array([_LIST])}
    nodes = [
        helper.make_node("MatMul", ["queries", "items"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["all"]),
        helper.make_node("TopK", ["all", "k"], ["scores", "rows"]),
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "top", [wired["queries"]], [wired["scores"], wired["rows"]], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
