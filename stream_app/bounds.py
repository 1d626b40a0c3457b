"""Upper bounds of the best scores in groups of items, by an int8 product: a third of the cost of the float32 one.

Items and queries are rounded to multiples of a unit: e = s·e' + r and q = t·q' + p with whole e' and q', so

    q·e = s·t·(q'·e') + q·r + p·(s·e')  <=  s·t·(q'·e') + |q|·|r| + |p|·|s·e'|     (Cauchy-Schwarz)

The product of whole numbers is exact. What float32 rounds off, here and in the score itself, is in the bound too.

Shape letters: E lists, D model width, C groups of R items.
"""

from typing import Final, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

_BLOCK_COLUMNS: Final = 256
_BLOCK_ITEMS: Final = 1 << 12
"""items whose products are computed at a time: those of a hundred lists stay near a core"""
_LEVELS: Final = 127
_LEVELS_WHERE_PAIRS_SATURATE: Final = 63
_SMALLEST_UNIT: Final = 1e-30
_SEEN: Final = -(1 << 30)
"""in the place of a product: below all of them"""
_PRODUCT: Final = (
    b'\x08\n:r\n\x1b\n\x01a\n\x01b\n\x01z\x12\x01y"\rMatMulInteger\x12\x01gZ\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n'
    b"\x03\x12\x01E\n\x03\x12\x01DZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n\n\x03\x12\x01D\n\x03\x12\x01NZ\x0b\n\x01z"
    b"\x12\x06\n\x04\x08\x02\x12\x00b\x15\n\x01y\x12\x10\n\x0e\x08\x06\x12\n\n\x03\x12\x01E\n\x03\x12\x01NB\x04\n\x00\x10"
    b"\x12"
)
"""an ONNX graph, written here because a worker has no library to make one: y = MatMulInteger(a, b, a_zero_point=z) of
opset 18 with uint8 a [E, D], int8 b [D, N] and uint8 z"""


class Seen(NamedTuple):
    """Items that do not count in a list, ascending by group."""

    lists: NDArray[np.int64]
    groups: NDArray[np.int64]
    members: NDArray[np.int64]
    """place in the group"""


class GroupBounds:
    """Bounds for the items of a catalogue, in groups of the same size."""

    def __init__(self, items: NDArray[np.float32]) -> None:
        """Take the items' embeddings [C, R, D]."""
        groups, self._size, width = items.shape
        self._session = _session()
        self._levels = _LEVELS if self._is_exact() else _LEVELS_WHERE_PAIRS_SATURATE
        self._zero = np.array(self._levels, np.uint8)
        self._units = np.empty(groups, np.float32)
        self._columns = max(_BLOCK_COLUMNS, _BLOCK_ITEMS // self._size)
        self._blocks: list[NDArray[np.int8]] = []  # [D, R·columns]
        rest = longest = 0.0  # the largest |r| / s and |e'|
        for start in range(0, groups, self._columns):
            block = items[start : start + self._columns]
            units = np.maximum(np.abs(block).max(axis=(1, 2)) / _LEVELS, _SMALLEST_UNIT).astype(np.float32)
            in_units = block / units[:, None, None]
            whole = np.rint(in_units)
            rest = max(rest, float(np.linalg.norm(in_units - whole, axis=2).max()))
            longest = max(longest, float(np.linalg.norm(whole, axis=2).max()))
            self._units[start : start + self._columns] = units
            self._blocks.append(np.ascontiguousarray(whole.astype(np.int8).transpose(2, 1, 0)).reshape(width, -1))
        self._slack_of_query = rest + (longest + rest) * width * 2.0**-22
        self._slack_of_rest = longest

    def compute(
        self, queries: NDArray[np.float32], bias: NDArray[np.float32], seen: Seen, bounds: NDArray[np.float32]
    ) -> None:
        """Write what the best item of each group that was not seen scores at most.

        Args:
            queries: f32[E, D].
            bias: f32[C], the largest one in each group.
            seen: what does not count.
            bounds: f32[E, C], written.
        """
        units = np.abs(queries).max(axis=1, keepdims=True) / np.float32(self._levels)
        np.maximum(units, np.float32(_SMALLEST_UNIT), out=units)
        in_units = queries / units
        whole = np.rint(in_units)
        slack = self._slack_of_query * np.linalg.norm(in_units, axis=1, keepdims=True)
        slack += self._slack_of_rest * np.linalg.norm(in_units - whole, axis=1, keepdims=True)
        slack = (slack * units).astype(np.float32)
        a = (whole + self._levels).astype(np.uint8)
        raised = bias + np.abs(bias, where=np.isfinite(bias), out=np.zeros_like(bias)) * np.float32(2.0**-20)
        ends = np.searchsorted(seen.groups, np.arange(0, len(bias) + self._columns, self._columns))
        for number, block in enumerate(self._blocks):
            start = number * self._columns
            (products,) = self._session.run(None, {"a": a, "b": block, "z": self._zero})
            products = products.reshape(len(queries), self._size, -1)
            of = slice(ends[number], ends[number + 1])
            products[seen.lists[of], seen.members[of], seen.groups[of] - start] = _SEEN
            best = products.max(axis=1).astype(np.float32)
            best *= units
            best += slack
            best *= self._units[start : start + self._columns]
            np.add(best, raised[start : start + self._columns], out=bounds[:, start : start + self._columns])

    def _is_exact(self) -> bool:
        """Whether this processor adds two products without saturation: 16 bits hold 2·127·127, but not 2·254·127."""
        a, b = np.full((1, 64), 2 * _LEVELS, np.uint8), np.full((64, 64), _LEVELS, np.int8)
        (product,) = self._session.run(None, {"a": a, "b": b, "z": np.array(0, np.uint8)})
        return bool((product == 64 * 2 * _LEVELS * _LEVELS).all())


def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # as for the model's step
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(_PRODUCT, options, providers=["CPUExecutionProvider"])
