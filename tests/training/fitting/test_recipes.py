from dataclasses import asdict, fields

import pytest

from training.fitting.recipe import Recipe
from training.fitting.recipes import Entry, Sizes, by_size, entries

METRICS = {"recall_10", "ndcg_10", "recall_20", "ndcg_20"}
DENSE = Sizes(users=6_040, items=3_416, events=999_611, longest=400)
SPARSE = Sizes(users=52_204, items=57_289, events=394_908, longest=13)


@pytest.mark.parametrize("name", sorted(entries()))
def test_an_entry_names_fields_of_a_recipe_and_the_papers_metrics(name: str) -> None:
    known = entries()[name]
    assert {*(known.recipe or {}), *known.sasrec} <= {field.name for field in fields(Recipe)}
    assert known.paper is None or set(known.paper) == METRICS
    known.recipe_for(DENSE)


def test_a_recipe_of_its_own_comes_before_the_sizes_and_sasrec_may_differ() -> None:
    known = Entry(recipe={"dropout": 0.1, "batch": 7}, sasrec={"batch": 8})
    assert known.recipe_for(SPARSE) == Recipe(dropout=0.1, batch=7)
    assert known.recipe_for(SPARSE, "sasrec") == Recipe(dropout=0.1, batch=8)
    assert Entry().recipe_for(SPARSE) == by_size(SPARSE)


@pytest.mark.parametrize(("name", "sizes"), [("ml-1m", DENSE), ("beauty", SPARSE)])
def test_the_sizes_alone_lead_near_the_recipes_that_were_tuned(name: str, sizes: Sizes) -> None:
    found, tuned = asdict(by_size(sizes)), asdict(entries()[name].recipe_for(sizes))
    free = {"evaluate_every", "patience"}
    for key in tuned.keys() - free:
        near = isinstance(tuned[key], int | float) and not isinstance(tuned[key], bool)
        assert found[key] == (pytest.approx(tuned[key], rel=0.1) if near else tuned[key]), key


def test_a_recipe_has_a_tuple_where_toml_has_a_list() -> None:
    assert Entry(recipe={"ahead": [0.5]}).recipe_for(SPARSE) == Recipe(ahead=(0.5,))


def test_sparse_data_has_more_dropout_and_long_histories_have_long_windows() -> None:
    dense, sparse = by_size(DENSE), by_size(SPARSE)
    assert dense.dropout < sparse.dropout
    assert dense.window == 400 > sparse.window


@pytest.mark.parametrize("items", [1, 10**3, 10**7])
@pytest.mark.parametrize("events", [3, 10**4, 10**9])
@pytest.mark.parametrize("longest", [1, 60, 10**5])
def test_any_sizes_have_a_recipe(items: int, events: int, longest: int) -> None:
    recipe = by_size(Sizes(users=2, items=items, events=events, longest=longest))
    assert 0 <= recipe.dropout < 1
    assert recipe.window >= 1
