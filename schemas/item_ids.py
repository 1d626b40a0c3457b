"""Item ids in the order of a catalogue's rows: a million of them in the memory that their letters take."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Self, overload

import msgpack
import numpy as np

from schemas.event import MAX_ID_BYTES
from schemas.malformed import Malformed

_CHUNK: Final = 4096
"""ids taken in at a time: other threads need not wait for all"""


class ItemIds(Sequence[str]):
    """Ids as one run of UTF-8 with the end of each.

    As many strings would take five times the memory, and a moment in which no other thread runs to be freed.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        runs: list[bytes] = []
        sizes: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        remaining = iter(ids)
        while chunk := [item_id.encode() for item_id in islice(remaining, _CHUNK)]:
            runs.append(b"".join(chunk))
            sizes.append(np.fromiter(map(len, chunk), np.int64, len(chunk)))
        self._letters = b"".join(runs)
        self._ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes]))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        start, end = self._ends[row % len(self) :][:2]
        return self._letters[start:end].decode()

    @classmethod
    def decode(cls, field: str, value: bytes) -> Self:
        """Decode a msgpack list of ids.

        Raises:
            Malformed: it is none, naming `field`.
        """
        unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(value)))
        unpacker.feed(value)
        try:
            ids = cls(_checked(unpacker, unpacker.read_array_header(), field))
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            if isinstance(error, Malformed):
                raise
            raise Malformed(field, value, f"must be a msgpack list ({error})") from None
        if unpacker.tell() != len(value):
            raise Malformed(field, value, "must be one msgpack list and nothing behind it")
        return ids


def _checked(unpacker: msgpack.Unpacker, count: int, field: str) -> Iterator[str]:
    for _ in range(count):
        item_id = unpacker.unpack()
        if type(item_id) is not str or not 0 < len(item_id) <= MAX_ID_BYTES:
            raise Malformed(field, item_id, f"must be a list of strings, each of 1 to {MAX_ID_BYTES} bytes")
        yield item_id
