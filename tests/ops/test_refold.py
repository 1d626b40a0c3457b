from itertools import count
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ops.refold import refold
from schemas import event, state
from schemas.event import Event
from schemas.item import item_hash
from schemas.placement import partition_of
from schemas.state import StateRecord, kept_length
from stream_app.broker import Record
from stream_app.store import Store

WINDOW = 4
PARTITIONS = 2
USERS = [user for user in (f"u{number}" for number in range(20)) if partition_of(user.encode(), PARTITIONS) == 0][:3]

_names = count()


def record(offset: int, user: str, item: str | None) -> Record:
    value = None if item is None else event.encode(Event(user, item, 1000 * offset))
    return Record(offset, user.encode(), value, 1000 * offset)


def states(directory: Path, *batches: list[Record], end: int, skipped: tuple[int, ...] = ()) -> dict[str, StateRecord]:
    store = Store(directory / str(next(_names)))
    try:
        read = refold(store, 0, PARTITIONS, batches, end, WINDOW, event.decode, skipped)
        assert read == sum(map(len, batches))
        assert (store.changelog_position, store.input_position) == (0, end)
        return {key.decode(): state.decode(value) for key, value in store.items()}
    finally:
        store.close()


@settings(max_examples=15)  # each opens a store
@given(
    st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(["a", "b", "c", None])), max_size=30), st.integers(1, 9)
)
def test_the_history_of_every_user_is_what_the_log_says_however_it_is_cut(
    tmp_path_factory: object, events: list[tuple[str, str | None]], size: int
):
    records = [record(offset, user, item) for offset, (user, item) in enumerate(events)]
    batches = [records[at : at + size] for at in range(0, len(records), size)]
    found = states(tmp_path_factory.mktemp("stores"), *batches, end=len(records))  # type: ignore[attr-defined]
    items: dict[str, list[str]] = {}
    for user, item in events:
        items.setdefault(user, [])
        items[user] = [] if item is None else [*items[user], item]
    assert found.keys() == items.keys()
    for user, all_items in items.items():
        kept = all_items[len(all_items) - kept_length(len(all_items), WINDOW) :]
        assert found[user].item_hashes().tolist() == [item_hash(item) for item in kept]
        assert found[user].events == len(all_items)
        assert found[user].forgotten == (not all_items)


def test_what_workers_put_aside_is_left_out(tmp_path: Path):
    stray = next(user for user in map(str, count()) if partition_of(user.encode(), PARTITIONS) == 1)
    unreadable = Record(2, USERS[0].encode(), b"no event", 0)
    batch = [record(0, USERS[0], "a"), record(1, stray, "a"), unreadable, record(3, USERS[0], "b")]
    found = states(tmp_path, batch, end=9, skipped=(3,))
    assert {user: (one.events, one.last_offset) for user, one in found.items()} == {USERS[0]: (1, 0)}
