from collections.abc import Collection
from typing import Any

from schemas.item import Item, encode, item_hash
from stream_app.availability import Availability


class Said:
    """A record on the topic `items`."""

    def __init__(self, item_id: str | None, item: Item | bytes | None) -> None:
        self._key = None if item_id is None else item_id.encode()
        self._value = encode(item) if isinstance(item, Item) else item

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def offset(self) -> int:
        return 0


GONE, BACK = Item(available=False), Item(available=True)


def follow(*batches: list[Any]) -> tuple[Availability, list[Collection[int]]]:
    told: list[Collection[int]] = []
    availability = Availability(told.append)
    for batch in batches:
        availability.follow(batch)
    return availability, told


def test_the_last_word_on_an_item_counts() -> None:
    _, told = follow([Said("a", GONE), Said("b", GONE), Said("a", BACK)], [Said("c", GONE)])
    assert told == [{item_hash("b")}, {item_hash("b"), item_hash("c")}]


def test_nothing_is_told_when_nothing_changed() -> None:
    _, told = follow([], [Said("a", BACK)], [Said("a", BACK)])
    assert told == []


def test_a_removed_record_makes_its_item_available_again() -> None:
    _, told = follow([Said("a", GONE)], [Said("a", None)])
    assert told == [{item_hash("a")}, set()]


def test_an_unreadable_record_is_counted_and_changes_nothing() -> None:
    availability, told = follow([Said("a", GONE)], [Said("a", b"\xc1"), Said(None, BACK)])
    assert told == [{item_hash("a")}]
    assert availability.refused == 2
