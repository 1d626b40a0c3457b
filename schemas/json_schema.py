"""The JSON forms of events and lists as JSON Schemas, for producers and consumers in any language.

`python -m schemas.json_schema` writes them to the folder `json` beside this file. What JSON Schema cannot say stands in
the descriptions; the code that decodes has the last word.
"""

import json
from pathlib import Path
from typing import Any, Final

from schemas.event import DEFAULT_TYPE, MAX_ID_BYTES, MAX_TIMESTAMP_MS, MAX_VALUE_BYTES
from schemas.recommendation import Cause

FOLDER: Final = Path(__file__).with_name("json")

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """By file name."""
    return {"event.schema.json": _event(), "recommendation.schema.json": _recommendation()}


def text(schema: dict[str, Any]) -> str:
    """As it stands in a file."""
    return json.dumps(schema, indent=2) + "\n"


def _event() -> dict[str, Any]:
    return {
        "$schema": _DIALECT,
        "title": "Event",
        "description": "A user's interaction with an item, the value of a record whose key is the user id. At most "
        f"{MAX_VALUE_BYTES} bytes, in UTF-8, first byte {{. Other fields are ignored, null is as good as missing.",
        "type": "object",
        "required": ["user_id", "item_id"],
        "properties": {
            "user_id": _id("The record's key has the same bytes."),
            "item_id": _id("The item's id, as training, titles and lists have it."),
            "timestamp": {
                "description": "UTC milliseconds, written without a fraction. Default: the record's timestamp.",
                "type": ["integer", "null"],
                "minimum": 0,
                "maximum": MAX_TIMESTAMP_MS,
            },
            "event_type": _id(f"What the user did. Default: {DEFAULT_TYPE}.", null=True),
            "event_id": _id("A repeat among the user's last events is dropped.", null=True),
        },
    }


def _id(description: str, *, null: bool = False) -> dict[str, Any]:
    return {
        "description": f"{description} At most {MAX_ID_BYTES} bytes of UTF-8, which may be fewer characters.",
        "type": ["string", "null"] if null else "string",
        "minLength": 1,
        "maxLength": MAX_ID_BYTES,
    }


def _recommendation() -> dict[str, Any]:
    event = {
        "partition": _integer("Of the topic of events, and of this list."),
        "offset": _integer("Of two lists for one offset the later counts."),
        "timestamp": _integer("UTC milliseconds."),
        "event_id": {"type": ["string", "null"]},
    }
    fields = {
        "user_id": {"type": "string"},
        "items": {
            "description": "Best first. Fewer than asked for if the user has seen nearly all, or the model knows few.",
            "type": "array",
            "items": _object({"item_id": {"type": "string"}, "score": {"type": "number"}}),
        },
        "model": _integer("Version of the model: UTC milliseconds of its export."),
        "cause": {
            "description": "Why it was sent: a new event; an event that came again; another model; a mended state.",
            "enum": [cause.value for cause in Cause],
        },
        "event": _object(event, required=["partition", "offset", "timestamp"])
        | {"description": "The event that the user's state ends with."},
        "history_length": _integer("Events that the list was made from."),
        "emitted_at": _integer("UTC milliseconds."),
    }
    return {
        "$schema": _DIALECT,
        "title": "Recommendation list",
        "description": "The best items for a user after an event, the value of a record whose key is the user id. A "
        "null value withdraws the lists of a user who is to be forgotten. Scores are written with a fraction or an "
        "exponent, other numbers without.",
        **_object(fields),
    }


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": required or list(properties), "properties": properties}


def _integer(description: str) -> dict[str, Any]:
    return {"description": description, "type": "integer"}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (FOLDER / name).write_text(text(schema))
