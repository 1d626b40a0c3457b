"""An item of the catalogue: the value of a record on the topic `items`, and the hash that stands for its id."""

from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import msgpack

from schemas.event import MAX_ID_BYTES, MAX_VALUE_BYTES
from schemas.malformed import Malformed
from schemas.packing import unpack_map


@dataclass(frozen=True, slots=True)
class Item:
    """What an operator says of an item; an unavailable one is never recommended."""

    title: str = ""
    available: bool = True
    attributes: dict[str, str] = field(default_factory=dict)


def item_hash(item_id: str) -> int:
    """BLAKE2b-64 of the item id, read as a little-endian u64: the id's name in histories and artefacts."""
    return int.from_bytes(blake2b(item_id.encode(), digest_size=8).digest(), "little")


def encode(item: Item) -> bytes:
    """The item as a msgpack map."""
    packed: bytes = msgpack.packb(asdict(item))
    return packed


def decode(value: bytes) -> Item:
    """Decode a msgpack map or a JSON object; unknown fields are ignored.

    Raises:
        Malformed: a field has the wrong type, or the value is larger than that of an event may be.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise Malformed("value", f"{len(value)} bytes", f"must be at most {MAX_VALUE_BYTES} bytes")
    fields = unpack_map(value, "value")
    attributes = fields.get("attributes", {})
    if type(attributes) is not dict:
        raise Malformed("attributes", attributes, "must be a map of strings")
    return Item(
        _typed("title", fields.get("title", ""), str),
        _typed("available", fields.get("available", True), bool),
        {_typed("attributes", k, str): _typed("attributes", v, str) for k, v in attributes.items()},
    )


def decode_key(key: bytes | None) -> str:
    """The item id that a record's key holds.

    Raises:
        Malformed: no key, or not 1 to 256 bytes of UTF-8.
    """
    try:
        item_id = (key or b"").decode()
    except UnicodeDecodeError:
        raise Malformed("key", key, "must be UTF-8") from None
    if key is None or not 0 < len(key) <= MAX_ID_BYTES:
        raise Malformed("key", key, f"must be the item id, 1 to {MAX_ID_BYTES} bytes")
    return item_id


def _typed(field: str, value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise Malformed(field, value, f"must be of type {kind.__name__}")
    return value
