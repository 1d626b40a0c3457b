"""A worker with a bug: an event that is in the state already is applied again when it comes again."""

import sys
from collections.abc import Sequence
from typing import Any

from schemas.state import StateRecord
from stream_app import engine
from stream_app.__main__ import main
from stream_app.advance import Advanced, Change, advance


def advance_always(record: StateRecord, changes: Sequence[Change], *rest: Any, **options: Any) -> Advanced:
    """As if no event had been applied yet."""
    return advance(record._replace(last_offset=-1), changes, *rest, **options)


if __name__ == "__main__":
    engine.advance = advance_always  # type: ignore[attr-defined]
    sys.exit(main())
