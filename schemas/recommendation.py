"""A recommendation list with its provenance: the value of a record on the topic `recommendations`."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgpack

from schemas.malformed import Malformed
from schemas.packing import pack_json, unpack_map

_USER_ID: Final[bytes] = b"\x87" + msgpack.packb("user_id")  # the first of seven fields
_ITEMS: Final[bytes] = msgpack.packb("items")
_EVENT: Final[bytes] = msgpack.packb("event")


@lru_cache(maxsize=256)
def _user_ids(size: int) -> bytes:
    """What comes before a user id of `size` bytes: name and msgpack's string header."""
    packed: bytes = msgpack.packb("x" * size)
    return _USER_ID + packed[: len(packed) - size]


class Cause(StrEnum):
    """Why a list was sent."""

    EVENT = "event"
    """a new event"""
    REPLAY = "replay"
    """an event that was already applied came again: its list may never have left"""
    MODEL = "model"
    """the user's state was folded again under a new model"""
    HEAL = "heal"
    """another writer's record was put right"""


class Recommendation(NamedTuple):
    """The best items for a user, best first, after the event at (`partition`, `offset`)."""

    user_id: str
    items: Sequence[tuple[str, float]]
    """(item id, score), best first"""
    model: int
    """version of the model: UTC milliseconds of its export"""
    cause: Cause
    partition: int
    offset: int
    """of the event that the user's state ends with"""
    timestamp_ms: int
    event_id: str | None
    history_length: int
    emitted_at_ms: int


def encode(recommendation: Recommendation) -> bytes:
    """The list as a msgpack map, scores in single precision."""
    packed: bytes = msgpack.packb(_fields(recommendation), use_single_float=True)
    return packed


def encode_item_head(item_id: str) -> bytes:
    """An encoded item but for its score, which follows as a big-endian f32."""
    packed: bytes = msgpack.packb({"item_id": item_id, "score": 0.0}, use_single_float=True)
    return packed[:-4]


class Encoder:
    """Encodes the lists of one model at one moment as `encode` does, five times faster. For one thread at a time."""

    def __init__(self, model: int, emitted_at_ms: int) -> None:
        self._pack: Callable[[object], bytes] = msgpack.Packer().pack  # making one costs more than a list
        self._arrays = [msgpack.Packer().pack_array_header(n) for n in range(16)]
        self._tail = b"".join(map(self._pack, ("model", model, "emitted_at", emitted_at_ms, "history_length")))
        self._causes = {cause: self._pack("cause") + self._pack(cause.value) for cause in Cause}

    def encode(
        self,
        user_key: bytes,
        items: Sequence[bytes],
        count: int,
        cause: Cause,
        partition: int,
        offset: int,
        timestamp_ms: int,
        event_id: str | None,
        history_length: int,
    ) -> bytes:
        """A list for the user with this key; its `count` `items` are encoded already, in any number of parts."""
        pack = self._pack
        event = {"partition": partition, "offset": offset, "timestamp": timestamp_ms, "event_id": event_id}
        return b"".join(
            (
                _user_ids(len(user_key)),
                user_key,
                _ITEMS,
                self._arrays[count] if count < 16 else msgpack.Packer().pack_array_header(count),
                *items,
                self._causes[cause],
                _EVENT,
                pack(event),
                self._tail,
                pack(history_length),
            )
        )


def encode_json(recommendation: Recommendation) -> bytes:
    """The list as a JSON object."""
    return pack_json(_fields(recommendation))


def decode(value: bytes) -> Recommendation:
    """Decode msgpack or JSON.

    Raises:
        Malformed: a field is missing or has the wrong type.
    """
    fields = unpack_map(value, "value")
    event = _typed("event", fields.get("event"), dict)
    cause = fields.get("cause")
    if type(cause) is not str or cause not in Cause.__members__.values():
        raise Malformed("cause", cause, f"must be one of {', '.join(Cause)}")
    items = [_typed("items", item, dict) for item in _typed("items", fields.get("items"), list)]
    event_id = event.get("event_id")
    return Recommendation(
        _typed("user_id", fields.get("user_id"), str),
        [(_typed("item_id", item.get("item_id"), str), _typed("score", item.get("score"), float)) for item in items],
        _typed("model", fields.get("model"), int),
        Cause(cause),
        _typed("event.partition", event.get("partition"), int),
        _typed("event.offset", event.get("offset"), int),
        _typed("event.timestamp", event.get("timestamp"), int),
        None if event_id is None else _typed("event.event_id", event_id, str),
        _typed("history_length", fields.get("history_length"), int),
        _typed("emitted_at", fields.get("emitted_at"), int),
    )


def _fields(recommendation: Recommendation) -> dict[str, Any]:
    r = recommendation
    event = {"partition": r.partition, "offset": r.offset, "timestamp": r.timestamp_ms, "event_id": r.event_id}
    return {
        "user_id": r.user_id,
        "items": [{"item_id": item_id, "score": score} for item_id, score in r.items],
        "model": r.model,
        "cause": r.cause.value,
        "event": event,
        "history_length": r.history_length,
        "emitted_at": r.emitted_at_ms,
    }


def _typed(field: str, value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise Malformed(field, value, f"must be of type {kind.__name__}")
    return value
