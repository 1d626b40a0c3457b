import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.item_ids import ItemIds
from schemas.malformed import Malformed

ids = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), max_size=30)


@given(ids)
def test_ids_read_back_as_they_were(expected: list[str]) -> None:
    found = ItemIds.decode("items", msgpack.packb(expected))
    assert len(found) == len(expected)
    assert list(found) == expected
    assert found[: len(expected) // 2] == expected[: len(expected) // 2]
    assert [found[-row] for row in range(1, len(expected) + 1)] == expected[::-1]


def test_more_ids_than_are_taken_in_at_a_time_stay_in_order() -> None:
    expected = [f"item-{number}" for number in range(10_000)]
    assert list(ItemIds.decode("items", msgpack.packb(expected))) == expected


def test_a_row_that_is_none_has_no_id() -> None:
    with pytest.raises(IndexError, match="row 2 of 2"):
        ItemIds(["a", "b"])[2]


@pytest.mark.parametrize("behind", [b"\x00", b"\xc1", msgpack.packb(["c"])])
def test_nothing_may_follow_the_list(behind: bytes) -> None:
    with pytest.raises(Malformed, match="items"):
        ItemIds.decode("items", msgpack.packb(["a", "b"]) + behind)
