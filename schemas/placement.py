"""Where Kafka's own clients put a record: the murmur2 hash of its key, modulo the partition count."""

from struct import Struct
from typing import Final

from schemas.malformed import Malformed

_MULTIPLIER: Final = 0x5BD1E995
_SEED: Final = 0x9747B28C
_U32: Final = 0xFFFFFFFF
_WORDS: Final = [Struct(f"<{count}I") for count in range(65)]
"""the whole words of a key of up to 256 bytes"""


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key of at most 256 bytes; about 1 µs for a short one."""
    size = len(key)
    hashed = _SEED ^ size
    for word in _WORDS[size >> 2].unpack_from(key):
        mixed = word * _MULTIPLIER & _U32
        hashed = (hashed * _MULTIPLIER & _U32) ^ ((mixed ^ mixed >> 24) * _MULTIPLIER & _U32)
    if tail := size & 3:
        hashed = (hashed ^ int.from_bytes(key[-tail:], "little")) * _MULTIPLIER & _U32
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _U32
    return ((hashed ^ hashed >> 15) & 0x7FFFFFFF) % partitions


def misplaced(key: bytes, partition: int, partitions: int) -> Malformed | None:
    """What is wrong with a record of this user in this partition, if anything.

    A user in two partitions would have two states, each of a part of the events.
    """
    right = partition_of(key, partitions)
    if right == partition:
        return None
    return Malformed(
        "partition",
        partition,
        f"must be {right} for this key, by murmur2 over {partitions} partitions: a librdkafka producer needs "
        "partitioner=murmur2_random",
    )
