"""Titles out of `.item` files."""

from pathlib import Path

import pytest

from ops.titles import items_beside, read_items
from schemas.item import Item
from schemas.settings import Refused

ITEMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tComedy\n"
    "2\tFargo\t\t\n"
)


def test_an_item_has_its_title_and_its_other_columns_as_attributes(tmp_path: Path):
    path = tmp_path / "a.item"
    path.write_text(ITEMS)
    assert read_items(path) == {
        "1": Item("Toy Story", attributes={"release_year": "1995", "class": "Comedy"}),
        "2": Item("Fargo"),
    }


def test_a_file_without_titles_is_refused(tmp_path: Path):
    path = tmp_path / "a.item"
    path.write_text("item_id:token\tyear:token\n1\t1995\n")
    with pytest.raises(Refused, match="must name a title, it names item_id, year"):
        read_items(path)


@pytest.mark.parametrize(
    ("interactions", "items"), [("a.inter", "a.item"), ("a.inter.gz", "a.item"), ("a.inter.gz", "a.item.gz")]
)
def test_the_items_of_a_data_set_lie_beside_its_interactions(tmp_path: Path, interactions: str, items: str):
    (tmp_path / items).touch()
    assert items_beside(tmp_path / interactions) == tmp_path / items


def test_the_items_of_another_data_set_are_not_taken(tmp_path: Path):
    (tmp_path / "b.item").touch()
    assert items_beside(tmp_path / "a.inter") is None
