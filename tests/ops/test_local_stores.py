from pathlib import Path

import pytest

from ops.local_stores import LocalStore, choose, read_stores
from schemas.settings import Refused
from stream_app.broker import Identity
from stream_app.store import Store
from stream_app.user_table import TableIdentity

TOPICS = Identity("interactions-1", "changelog-2", 2)
DATA = Path("data")


def store(worker: str, partition: int, position: int, done: int = 0, **other: object) -> LocalStore:
    identity = {"format": 1, "history_length": 100, "interactions": "interactions-1", "partitions": 2}
    identity |= {"changelog": "changelog-2", **other}
    return LocalStore(DATA / worker / str(partition), partition, identity, position, done)


def chosen(*stores: LocalStore) -> list[str]:
    return [str(one.path.relative_to(DATA)) for one in choose(stores, TOPICS, DATA)]


def test_of_stores_of_one_changelog_the_one_that_read_most_of_it_counts_whatever_it_has_done_itself():
    stores = [store("a", 0, 9, done=70), store("b", 0, 12, done=0), store("b", 1, 3), store("a", 1, 4)]
    assert chosen(*stores) == chosen(*reversed(stores)) == ["b/0", "a/1"]


def test_a_store_of_the_present_changelog_counts_before_one_of_an_earlier_one():
    assert chosen(store("a", 0, 99, 99, changelog="changelog-1"), store("b", 0, 5), store("b", 1, 5))[0] == "b/0"


def test_between_earlier_changelogs_the_store_that_has_done_more_events_counts():
    lost = [store("a", 0, 99, 50, changelog="changelog-0"), store("b", 0, 5, 60, changelog="changelog-1")]
    assert chosen(*lost, store("b", 1, 5))[0] == "b/0"


def test_a_partition_without_a_complete_store_is_named():
    incomplete = store("a", 1, 7)._replace(identity={})
    with pytest.raises(Refused, match=r"data has no complete store of partitions \[1\]: copy the folders"):
        choose([store("a", 0, 7), incomplete], TOPICS, DATA)


@pytest.mark.parametrize("other", [{"interactions": "interactions-0"}, {"partitions": 4}, {"format": 0}])
def test_a_store_of_other_events_is_refused_and_named(other: dict[str, object]):
    with pytest.raises(Refused, match=r"data/a/0 belongs to .*, now there are .*`python -m ops rebuild --from log`"):
        choose([store("a", 0, 7, **other), store("b", 0, 7), store("b", 1, 7)], TOPICS, DATA)


def test_stores_of_two_history_lengths_are_refused():
    with pytest.raises(Refused, match=r"different history lengths \[50, 100\]"):
        choose([store("a", 0, 7), store("a", 1, 7, history_length=50)], TOPICS, DATA)


def test_what_is_on_the_disk_is_read_and_left_as_it_is(tmp_path: Path):
    of_table = TableIdentity.of(TOPICS, 100)
    path = tmp_path / "app" / "w" / "1"
    written = Store(path)
    written.write({b"u": b"state"}, 8, 5)
    written.stamp(of_table.in_store, 9)
    written.close()
    Store(tmp_path / "app" / "w.rebuilding" / "new").close()
    [found] = read_stores(tmp_path, "app")
    assert found == store("w", 1, 9, 5)._replace(path=path)
    in_use = Store(path)
    with pytest.raises(Refused, match="another worker runs with this worker id"):
        read_stores(tmp_path, "app")
    in_use.close()
