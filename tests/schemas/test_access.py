"""The access control list as data; tests/kafka/test_security.py grants it and nothing more."""

from pathlib import Path

import pytest

from schemas.access import PROCESSES, access
from schemas.settings import Settings
from schemas.topics import topics

SETTINGS = Settings(_env_file=None, app="shop", interactions="clicks")


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_needs_named_resources_each_once(process: str):
    needed = access(SETTINGS, process)
    places = [(one.resource, one.name) for one in needed]
    assert len(places) == len(set(places))
    assert all(one.operations for one in needed)
    known = {topic.name for topic in topics(SETTINGS)} | {"shop", "shop-reader", "shop-dlq"}
    assert {one.name for one in needed} <= known


def test_only_what_makes_topics_may_make_or_delete_any():
    may = {process: {op for one in access(SETTINGS, process) for op in one.operations} for process in PROCESSES}
    makers = {process for process, operations in may.items() if operations & {"CREATE", "DELETE"}}
    assert makers == {"topics", "reset", "rebuild"}


def test_nobody_but_a_worker_writes_lists_and_nobody_but_it_and_a_rebuild_states():
    writers = {
        name: {p for p in PROCESSES for one in access(SETTINGS, p) if one.name == name and "WRITE" in one.operations}
        for name in (SETTINGS.recommendations, SETTINGS.changelog)
    }
    assert writers == {SETTINGS.recommendations: {"worker"}, SETTINGS.changelog: {"worker", "rebuild"}}


def test_the_documentation_has_the_list():
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    settings = Settings.model_construct()
    for process, runs in PROCESSES.items():
        needed = access(settings, process)
        rights = "; ".join(f"{', '.join(operations)} {resource} `{name}`" for resource, name, operations in needed)
        assert f"\n| {process} | {runs} | {rights} |\n" in page


def test_an_unknown_process_is_named():
    with pytest.raises(ValueError, match="no process 'cleaner', there are: worker, "):
        access(SETTINGS, "cleaner")
