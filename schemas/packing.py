"""Maps on the wire: msgpack, or JSON when the first byte is ``{``."""

import json
from typing import Any, Final, NoReturn

import msgpack

from schemas.malformed import Malformed


def unpack_map(value: bytes, what: str) -> dict[str, Any]:
    """Decode one map; `what` names it in the error.

    Raises:
        Malformed: neither a msgpack map nor a JSON object.
    """
    try:
        decoded = _from_json(value) if value[:1] == b"{" else msgpack.unpackb(value)
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException, TypeError) as error:
        raise Malformed(what, value, f"must be a msgpack map or a JSON object ({_reason(error)})") from None
    if type(decoded) is not dict:
        raise Malformed(what, value, "must be a map")
    return decoded


def pack_json(content: dict[str, Any]) -> bytes:
    """Encode as compact UTF-8 JSON."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _from_json(value: bytes) -> Any:
    return _JSON.decode(value.decode())  # json.loads would also take UTF-16 and lone surrogates, and is half as fast


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_JSON: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][:80] or type(error).__name__
