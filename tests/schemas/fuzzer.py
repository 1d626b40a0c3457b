"""Good and bad records for `interactions`, by the million, each with what must become of it.

What must become of a record is known by construction, or judged here by the contract with the plain libraries: no code
of the product decodes anything.
"""

import json
import struct
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from random import Random
from typing import Any, Final, NamedTuple

import msgpack
from kafka.partitioner.default import murmur2

MAX_ID: Final = 256
MAX_VALUE: Final = 65_536
MAX_TIME_MS: Final = 4_294_967_295_999
HUGE: Final = 990_000
"""near what a broker takes by default, with room for key and headers"""
ITEMS: Final = [f"i{number}" for number in range(300)]
_ODD_ITEMS: Final = ["ø", "项目", "𝄞" * 64, "x" * 256, "i\0", " ", "i1\n"]
_IDS: Final = ("user_id", "item_id", "event_type", "event_id")
_NO_TEXTS: Final = (1, -1, True, 1.5, [], ["u"], {}, {"id": "u"})
_NO_TIMES: Final = (-1, -(1 << 63), MAX_TIME_MS + 1, 1 << 63, (1 << 64) - 1, 1.0, 1e300, "5", "", True, [5], {"ms": 5})

_Fields = dict[str, Any]
_Made = tuple[bytes | None, bytes | None, frozenset[str]]
"""key, value, and the fields of which one must be blamed"""


class Interaction(NamedTuple):
    """What a valid record says."""

    item_id: str | None
    """None: forget the user"""
    timestamp_ms: int
    event_id: str | None


class Fuzzed(NamedTuple):
    """A record, and what must become of it."""

    kind: str
    partition: int
    key: bytes | None
    value: bytes | None
    record_ms: int
    blame: frozenset[str]
    """one of these is the field that a dead letter must name; empty: the record is valid"""
    says: Interaction | None
    """of a valid record"""


class Fuzzer:
    """Makes the same records for the same seed.

    Args:
        seed: of all choices.
        partitions: of the topic.
        start_ms: time of the first record.
        users: how many there are.
        share: of the records that are meant to be valid.
    """

    def __init__(self, seed: int, partitions: int, start_ms: int, users: int = 2_000, share: float = 0.6) -> None:
        self._random = Random(seed)
        self._partitions = partitions
        self._start_ms = start_ms
        self._share = share
        odd = ["ü", "用户", "𝄞" * 64, "y" * 256, "\0", "u\n", "{", "identity", "ÿidentity"]
        self._users = odd + [f"u{number}" for number in range(users - len(odd))]
        self._sent: deque[_Made] = deque(maxlen=100)

    def records(self, count: int) -> Iterator[Fuzzed]:
        """So many of them."""
        for number in range(count):
            good = self._random.random() < self._share
            weights = GOOD if good else BAD
            (name,) = self._random.choices(list(weights), weights.values())
            key, value, blame = getattr(self, name)()
            record_ms = self._start_ms + number
            partition = self._partition(key)
            says = None if blame else _says(value, record_ms)
            if good and not self._random.randrange(50) and self._partitions > 1:
                name, says, blame = "misplaced", None, blame or frozenset({"partition"})
                partition = (partition + self._random.randrange(1, self._partitions)) % self._partitions
            yield Fuzzed(name, partition, key, value, record_ms, blame, says)

    def _partition(self, key: bytes | None) -> int:
        if key is None or not 0 < len(key) <= MAX_ID:
            return self._random.randrange(self._partitions)
        return placed(key, self._partitions)

    # valid ones

    def fields(self) -> _Fields:
        """A valid event's, in any order."""
        random = self._random
        users = self._users
        fields: _Fields = {
            "user_id": users[min(int(random.expovariate(6.0) * len(users)), len(users) - 1)],
            "item_id": random.choice(ITEMS if random.random() < 0.95 else _ODD_ITEMS),
        }
        if random.random() < 0.8:
            edge = random.random() < 0.02
            fields["timestamp"] = random.choice((0, MAX_TIME_MS)) if edge else self._start_ms - random.randrange(10_000)
        if random.random() < 0.3:
            fields["event_type"] = random.choice(("view", "buy", "x" * 256, "é" * 128))
        if random.random() < 0.4:
            fields["event_id"] = f"e{random.getrandbits(60)}"
        for name in ("timestamp", "event_type", "event_id"):
            if name not in fields and random.random() < 0.1:
                fields[name] = None
        if random.random() < 0.2:
            fields[random.choice(("price", "", "User_id", "𝄞", "user_id "))] = self.anything()
        if random.random() < 0.5:
            names = list(fields)
            random.shuffle(names)
            fields = {name: fields[name] for name in names}
        return fields

    def anything(self, depth: int = 0) -> Any:
        """A value of any type, that JSON can say as well."""
        kind = self._random.randrange(8 if depth < 3 else 6)
        if kind == 6:
            return [self.anything(depth + 1) for _ in range(self._random.randrange(4))]
        if kind == 7:
            return {str(number): self.anything(depth + 1) for number in range(self._random.randrange(4))}
        return (None, True, self._random.getrandbits(60) - (1 << 59), self._random.random(), "text", "\u2028\0é")[kind]

    def packed(self, fields: _Fields) -> bytes:
        """As msgpack or JSON, in one of the ways to write them."""
        return self.as_msgpack(fields) if self._random.random() < 0.6 else self.as_json(fields)

    def as_msgpack(self, fields: _Fields) -> bytes:
        """As msgpack; sometimes longer than it need be."""
        if self._random.random() < 0.9:
            packed: bytes = msgpack.packb(fields)
            return packed
        parts = [b"\xdf" + struct.pack(">I", len(fields))]
        for name, value in fields.items():
            text = name.encode()
            parts += [b"\xdb" + struct.pack(">I", len(text)) + text]
            if type(value) is str:
                parts += [b"\xdb" + struct.pack(">I", len(value.encode())) + value.encode()]
            elif type(value) is int and value >= 0:
                parts += [b"\xcf" + struct.pack(">Q", value)]
            else:
                parts += [msgpack.packb(value)]
        return b"".join(parts)

    def as_json(self, fields: _Fields) -> bytes:
        """As JSON: escaped or not, dense or not."""
        escaped = self._random.random() < 0.3
        return json.dumps(fields, ensure_ascii=escaped, indent=self._random.choice((None, None, 2))).encode()

    def event(self) -> _Made:
        fields = self.fields()
        made = fields["user_id"].encode(), self.packed(fields), _VALID
        self._sent.append(made)
        return made

    def sent_again(self) -> _Made:
        """What was sent shortly before: a repeat, if it has an event id."""
        return self._random.choice(self._sent) if self._sent else self.event()

    def tombstone(self) -> _Made:
        return self._random.choice(self._users).encode(), None, _VALID

    def largest(self) -> _Made:
        fields = self.fields() | {"padding": ""}
        value = json.dumps(fields).encode()
        value = value.replace(b'"padding": ""', b'"padding": "%s"' % (b"x" * (MAX_VALUE - len(value))))
        return fields["user_id"].encode(), value, _VALID

    def named_twice(self) -> _Made:
        fields = self.fields()
        value = json.dumps(fields).encode()
        return fields["user_id"].encode(), b'{"item_id": [], "user_id": 5,' + value[1:], _VALID

    def nested(self) -> _Made:
        fields, depth = self.fields(), self._random.randrange(1, 200)
        if self._random.random() < 0.5:
            value = json.dumps(fields).encode()[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"
        else:
            value = msgpack.packb(fields | {"deep": 0})
            value = value.replace(b"\xa4deep\x00", b"\xa4deep" + b"\x91" * depth + b"\xc0")
        return fields["user_id"].encode(), value, _VALID

    # invalid ones

    def wrong_id(self) -> _Made:
        fields, name = self.fields(), self._random.choice(_IDS)
        key = fields["user_id"].encode()
        fields[name] = self._random.choice(_NO_TEXTS)
        return key, self.packed(fields), frozenset({name})

    def wrong_size(self) -> _Made:
        fields, name = self.fields(), self._random.choice(_IDS)
        key = fields["user_id"].encode()
        fields[name] = self._random.choice(("", "x" * 257, "é" * 128 + "x", "𝄞" * 65, "x" * 10_240))
        return key, self.packed(fields), frozenset({name})

    def missing(self) -> _Made:
        fields, name = self.fields(), self._random.choice(_IDS[:2])
        key = fields["user_id"].encode()
        if self._random.random() < 0.5:
            del fields[name]
        else:
            fields[name] = None
        return key, self.packed(fields), frozenset({name})

    def binary_id(self) -> _Made:
        fields, name = self.fields(), self._random.choice(_IDS)
        key = fields["user_id"].encode()
        fields[name] = self._random.choice((b"u", b"", msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2)))
        return key, msgpack.packb(fields), frozenset({name})

    def surrogate(self) -> _Made:
        fields, name = self.fields(), self._random.choice(_IDS)
        key = fields["user_id"].encode()
        fields[name] = self._random.choice(("\ud800", "a\udfff", "\udc00\ud800"))
        return key, json.dumps(fields).encode(), frozenset({name})

    def wrong_time(self) -> _Made:
        fields = self.fields() | {"timestamp": self._random.choice(_NO_TIMES)}
        return fields["user_id"].encode(), self.packed(fields), frozenset({"timestamp"})

    def no_number(self) -> _Made:
        fields = self.fields()
        name = self._random.choice(("timestamp", "price"))
        fields[name] = self._random.choice((float("nan"), float("inf"), float("-inf")))
        blame = "value"  # JSON has no such number
        if self._random.random() < 0.5:
            value = json.dumps(fields).encode()
        else:
            fields["timestamp"] = fields[name]
            value, blame = msgpack.packb(fields), "timestamp"
        return fields["user_id"].encode(), value, frozenset({blame})

    def endless_number(self) -> _Made:
        fields, digits = self.fields(), self._random.choice((20, 400, 5_000, 60_000))
        fields.pop("timestamp", None)
        value = json.dumps(fields).encode()[:-1] + b', "timestamp": %s}' % (b"9" * digits)
        return fields["user_id"].encode(), value, frozenset({"value" if digits > 4_300 else "timestamp"})

    def wrong_key(self) -> _Made:
        fields = self.fields()
        key = self._random.choice(
            (None, b"", b"x" * 257, b"x" * 10_240, b"\xff", b"\xed\xa0\x80", fields["user_id"].encode() + b"\xc3")
        )
        value = None if not self._random.randrange(5) else self.packed(fields)
        return key, value, frozenset({"key"})

    def other_key(self) -> _Made:
        fields = self.fields()
        key = self._random.choice((fields["user_id"] + "x", fields["user_id"].upper() + "é", " "))[-60:].encode()
        return key, self.packed(fields), frozenset({"user_id"})

    def truncated(self) -> _Made:
        fields = self.fields()
        value = self.packed(fields)
        return fields["user_id"].encode(), value[: self._random.randrange(1, len(value))], _VALUE

    def trailing(self) -> _Made:
        fields = self.fields()
        value = self.packed(fields)
        more = self._random.choice((b"x", value, b"\xc0", b"{}"))
        return fields["user_id"].encode(), value + more, _VALUE

    def no_map(self) -> _Made:
        fields = self.fields()
        value = json.dumps(fields).encode()
        packed = msgpack.packb(self._random.choice((None, 5, "text", 1.5, [fields], b"bytes", msgpack.Timestamp(5))))
        chosen = self._random.choice((packed, b"[%s]" % value, b" " + value, b"\xef\xbb\xbf" + value, b"null"))
        return fields["user_id"].encode(), chosen, _VALUE

    def odd_map_keys(self) -> _Made:
        fields = self.fields()
        return fields["user_id"].encode(), msgpack.packb({**fields, self._random.choice((1, 1.5, None)): 1}), _VALUE

    def no_utf8(self) -> _Made:
        fields = self.fields() | {"note": "@@@@"}
        bad = self._random.choice((b"\xff\xfe@@", b"\xed\xa0\x80@", b"\xc3@@@", b"@@@\xf0"))
        return fields["user_id"].encode(), self.packed(fields).replace(b"@@@@", bad), _VALUE

    def utf16(self) -> _Made:
        fields = self.fields()
        encoding = self._random.choice(("utf-16-le", "utf-16-be", "utf-16", "utf-32-le"))
        return fields["user_id"].encode(), json.dumps(fields).encode(encoding), _VALUE

    def too_deep(self) -> _Made:
        fields, depth = self.fields(), self._random.choice((2_000, 5_000, 30_000))
        name = self._random.choice(("item_id", "deep"))
        if self._random.random() < 0.5:
            value = json.dumps(fields).encode()[:-1] + b',"%s":' % name.encode() + b"[" * depth + b"]" * depth + b"}"
        else:
            value = b"\x82\xa7user_id\xa1u" + msgpack.packb(name) + b"\x91" * depth + b"\xc0"
        return fields["user_id"].encode(), value, _VALUE

    def announced(self) -> _Made:
        """Lengths that are far beyond what follows."""
        length = struct.pack(">I", self._random.choice((1 << 20, (1 << 31) - 1, (1 << 32) - 1)))
        within = b"\x81\xa7user_id"
        head = self._random.choice((b"\xdf", b"\xdd", b"\xdb", b"\xc6", b"\xc9", within + b"\xdb", within + b"\xdd"))
        return b"u1", head + length + b"\xa1u" * self._random.randrange(20), _VALUE

    def too_large(self) -> _Made:
        size = self._random.choice((MAX_VALUE + 1, 100_000, 600_000, HUGE))
        fields = self.fields()
        value = json.dumps(fields | {"padding": "x" * size}).encode()
        return fields["user_id"].encode(), value[:size] if self._random.random() < 0.2 else value[-size:], _VALUE

    def noise(self) -> _Made:
        value = self._random.randbytes(self._random.choice((0, 1, 2, 5, 20, 100, 1_000)))
        key = self._random.choice((b"u1", self._random.randbytes(3)))
        return key, value, broken_rules(key, value)

    def damaged(self) -> _Made:
        """An event in which some bytes are others, or gone, or new."""
        fields = self.fields()
        value, random = bytearray(self.packed(fields)), self._random
        for _ in range(random.randrange(1, 4)):
            at = random.randrange(len(value))
            match random.randrange(3):
                case 0:
                    value[at] = random.randrange(256)
                case 1 if len(value) > 1:
                    del value[at]
                case _:
                    value.insert(at, random.randrange(256))
        key = fields["user_id"].encode()
        return key, bytes(value), broken_rules(key, bytes(value))


_VALID: Final[frozenset[str]] = frozenset()
_VALUE: Final = frozenset({"value"})
GOOD: Final[dict[str, float]] = {
    "event": 15,
    "sent_again": 1,
    "named_twice": 1,
    "nested": 1,
    "tombstone": 0.05,  # who is forgotten too often has no history
    "largest": 0.02,
}
"""kinds of valid records, with how often they come"""
BAD: Final[dict[str, float]] = {
    "damaged": 3,
    "noise": 1,
    "wrong_id": 1,
    "wrong_size": 1,
    "missing": 1,
    "binary_id": 1,
    "surrogate": 1,
    "wrong_time": 1,
    "no_number": 1,
    "endless_number": 0.3,
    "wrong_key": 1,
    "other_key": 1,
    "truncated": 1,
    "trailing": 1,
    "no_map": 1,
    "odd_map_keys": 1,
    "no_utf8": 1,
    "utf16": 1,
    "announced": 1,
    "too_deep": 0.3,
    "too_large": 0.01,
}
"""of records of which all but some of the first two are invalid"""


@lru_cache(maxsize=1 << 16)
def placed(key: bytes, partitions: int) -> int:
    """Where Kafka's own clients put a key."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def broken_rules(key: bytes | None, value: bytes) -> frozenset[str]:
    """The fields of which a rule of the contract is broken, by the plain libraries; empty for a valid event."""
    fields = _parsed(value)
    if fields is None:
        return _VALUE
    broken = {name for name in ("event_type", "event_id") if fields.get(name) is not None and not _is_id(fields[name])}
    broken |= {name for name in ("user_id", "item_id") if not _is_id(fields.get(name))}
    time_ms = fields.get("timestamp")
    if time_ms is not None and (type(time_ms) is not int or not 0 <= time_ms <= MAX_TIME_MS):
        broken.add("timestamp")
    if not _is_key(key):
        broken.add("key")
    elif "user_id" not in broken and fields["user_id"].encode() != key:
        broken.add("user_id")
    return frozenset(broken)


def _says(value: bytes | None, record_ms: int) -> Interaction:
    if value is None:
        return Interaction(None, record_ms, None)
    fields = _parsed(value)
    assert fields is not None
    time_ms = fields.get("timestamp")
    return Interaction(fields["item_id"], record_ms if time_ms is None else time_ms, fields.get("event_id"))


def _parsed(value: bytes) -> _Fields | None:
    """The map that these bytes are, if they are one."""
    if len(value) > MAX_VALUE:
        return None
    try:
        if value[:1] == b"{":
            fields = json.loads(value.decode("utf-8"), parse_constant=_no_number)
        else:
            fields = msgpack.unpackb(value)
    except (ValueError, RecursionError, TypeError, msgpack.exceptions.UnpackException):
        return None
    return fields if isinstance(fields, dict) else None


def _no_number(name: str) -> None:
    raise ValueError(name)


def _is_id(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        return 1 <= len(text.encode()) <= MAX_ID
    except UnicodeEncodeError:
        return False


def _is_key(key: bytes | None) -> bool:
    if key is None or not 1 <= len(key) <= MAX_ID:
        return False
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
