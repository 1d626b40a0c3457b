"""Producers with an event schema of their own: which of their fields is which of ours, and the unit of their time."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal, NamedTuple, Self

from schemas import event
from schemas.event import MAX_TIMESTAMP_MS, Event
from schemas.malformed import Malformed

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
Decode = Callable[[bytes, bytes | None, int], Event]
Encode = Callable[[Event], bytes]

FIELDS: Final = ("user_id", "item_id", "timestamp", "event_type", "event_id")
"""of an event, as the contract names them"""

_MS: Final = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_RULES: Final = {
    "s": "a number of seconds",
    "ms": "a number of milliseconds",
    "us": "a number of microseconds",
    "ns": "a number of nanoseconds",
    "iso": "an ISO 8601 time such as 2024-05-31T12:00:00Z, which is UTC if it names no zone",
}


class Codec(NamedTuple):
    """How events stand on a topic; see `schemas.event` for the arguments and for what is raised."""

    decode: Decode = event.decode
    encode: Encode = event.encode


class FieldMapping:
    """Translates between a producer's own map and one with the contract's fields.

    Whole numbers as ids become their decimal text: many producers number their users and items.
    """

    def __init__(self, names: Mapping[str, str], time_unit: TimeUnit = "ms") -> None:
        """Fields that `names` leaves out keep the contract's name; a dot leads into a nested map.

        Raises:
            ValueError: a field that no event has, or two in the same place.
        """
        for field in names:
            if field not in FIELDS:
                raise ValueError(f"no field {field!r}, there are: {', '.join(FIELDS)}")
        self._paths = {field: tuple(names.get(field, field).split(".")) for field in FIELDS}
        self._time_unit: TimeUnit = time_unit
        for field, path in self._paths.items():
            if not all(path):
                raise ValueError(f"{field} must be the name of a field, or several with dots between")
            for other, longer in self._paths.items():
                if field != other and path == longer[: len(path)]:
                    raise ValueError(f"{field} is {'.'.join(path)}, then {other} cannot be {'.'.join(longer)}")

    @classmethod
    def parse(cls, text: str, time_unit: TimeUnit = "ms") -> Self:
        """Out of ``user_id=customer.id,item_id=sku``.

        Raises:
            ValueError: another form, and as above.
        """
        names: dict[str, str] = {}
        for pair in filter(None, text.split(",")):
            field, equals, name = pair.strip().partition("=")
            if not equals or field in names:
                raise ValueError(f"must be FIELD=NAME[,FIELD=NAME], each field once; wrong at {pair!r}")
            names[field] = name
        return cls(names, time_unit)

    @property
    def codec(self) -> Codec:
        """For topics that have the producer's maps."""
        return Codec(partial(event.decode, read=self.read), partial(event.encode, write=self.write))

    def read(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The contract's fields, None where the producer's map has none.

        Raises:
            Malformed: the time is not in its unit.
        """
        fields = {field: _at(own, path) for field, path in self._paths.items()}
        timestamp = fields.pop("timestamp")
        for field, value in fields.items():
            if type(value) is int:
                fields[field] = str(value)
        fields["timestamp"] = None if timestamp is None else milliseconds(timestamp, self._time_unit)
        return fields

    def write(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The producer's map that `read` makes these fields of."""
        own: dict[str, Any] = {}
        for field, value in fields.items():
            inner = own
            *parents, name = self._paths[field]
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[name] = _in_unit(value, self._time_unit) if field == "timestamp" else value
        return own


def milliseconds(time: object, unit: TimeUnit) -> int:
    """A time as UTC milliseconds.

    Raises:
        Malformed: it is not in this unit, or not within 1970 to 2106.
    """
    try:
        timestamp_ms = _MS[unit] * _number(time) if unit != "iso" else _iso_ms(time)
        if 0 <= timestamp_ms <= MAX_TIMESTAMP_MS:
            return round(timestamp_ms)
    except (TypeError, ValueError, OverflowError):
        pass
    raise Malformed("timestamp", time, f"must be {_RULES[unit]}, from 1970 to 2106")


def _number(value: object) -> int | float:
    if type(value) is int or type(value) is float:
        return value
    raise TypeError


def _iso_ms(text: Any) -> float:
    time = datetime.fromisoformat(text)
    return 1000 * (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _in_unit(timestamp_ms: int, unit: TimeUnit) -> int | float | str:
    if unit == "iso":
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return timestamp_ms / 1000 if unit == "s" else timestamp_ms * round(1 / _MS[unit])


def _at(fields: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if type(fields) is not dict:
            return None
        fields = fields.get(name)
    return fields
