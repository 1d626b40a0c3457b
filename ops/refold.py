"""Histories made again from the events of a partition, in bulk and without lists.

No model is asked: a worker folds a user's history at the user's next event, as it does after every new model.
"""

import time
from collections.abc import Collection, Iterable
from typing import Final

import structlog

from schemas import state
from schemas.field_mapping import Decode
from schemas.placement import misplaced
from schemas.state import StateRecord
from stream_app.advance import advance
from stream_app.broker import Record
from stream_app.intake import take_in
from stream_app.store import Store

_REPORT_S: Final = 2.0
_log = structlog.get_logger()


def refold(
    store: Store,
    partition: int,
    partitions: int,
    batches: Iterable[list[Record]],
    end: int,
    history_length: int,
    decode: Decode,
    skipped: Collection[int] = (),
) -> int:
    """Apply the events of a partition to an empty store, and say there that all below offset `end` are done.

    Args:
        store: empty; durable when this returns.
        partition: of the store.
        partitions: of the topic.
        batches: records in offset order, all below `end`.
        end: the next input offset.
        history_length: the workers'.
        decode: reads an event out of a record's value.
        skipped: offsets that the workers' `skip_records` leaves out.

    Returns:
        records that were read, also those that are no events.
    """
    records, reported = 0, time.monotonic()
    for batch in batches:
        changes = take_in(batch, 0, skipped, decode).changes
        keys = list(changes)
        changed: dict[bytes, bytes] = {}
        for key, value in zip(keys, store.get(keys), strict=True):
            if value is None and misplaced(key, partition, partitions):
                continue
            record = StateRecord() if value is None else state.decode(value)
            advanced = advance(record, changes[key], history_length, rebase=False, every=False)
            if advanced.changed:
                changed[key] = state.encode(advanced.record)
        store.write(changed, 0, logged=False)
        records += len(batch)
        if (now := time.monotonic()) - reported > _REPORT_S:
            reported = now
            _log.info("folding", partition=partition, offset=batch[-1].offset, end=end)
    store.flush()
    store.write({}, 0, end)
    return records
