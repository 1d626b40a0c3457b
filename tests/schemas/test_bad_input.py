"""Fuzzed records against the decoder: it agrees with the contract, and raises nothing but Malformed."""

import os
from collections import Counter

from schemas import event
from schemas.malformed import Malformed
from tests.schemas.fuzzer import BAD, GOOD, Fuzzed, Fuzzer, Interaction

MESSAGES = int(os.environ.get("MESSAGES", "20000"))


def understood(record: Fuzzed) -> Interaction | str:
    """What the record says, or the field that is blamed."""
    try:
        if record.value is None:
            event.decode_key(record.key)
            return Interaction(None, record.record_ms, None)
        decoded = event.decode(record.value, record.key, record.record_ms)
    except Malformed as malformed:
        reason = malformed
    else:
        return Interaction(decoded.item_id, decoded.timestamp_ms, decoded.event_id)
    assert len(str(reason).encode()) < 2_000, "it must fit into a header"
    return reason.field


def test_every_record_is_understood_or_blamed_as_the_contract_says():
    kinds = Counter[str]()
    for record in Fuzzer(seed=1, partitions=4, start_ms=1_700_000_000_000).records(MESSAGES):
        kinds[record.kind] += 1
        found = understood(record)
        if record.kind == "misplaced":  # which the decoder does not know
            continue
        assert found == record.says if record.says else found in record.blame, record
    assert kinds.keys() == {*GOOD, *BAD, "misplaced"}


def test_the_same_seed_gives_the_same_records():
    first, second = (list(Fuzzer(7, 4, 0).records(500)) for _ in range(2))
    assert first == second
    assert first != list(Fuzzer(8, 4, 0).records(500))
