import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.settings import Refused
from schemas.state import StateRecord, decode_last_offset, encode
from stream_app import user_table
from stream_app.broker import Identity, NotOwner, Outgoing
from stream_app.store import Store
from stream_app.user_table import Recovered, UserTable
from tests.stream_app.world import Entry, Worker, WorkerBroker, World

TOPICS = Identity("interactions-1", "changelog-1", 16)


class Cluster(WorkerBroker):
    """The changelog of partition 0, with a group that calls every worker its owner unless told otherwise."""

    def __init__(self, directory: Path) -> None:
        world = World(directory)
        super().__init__(Worker(world, "a"))
        self.world = world
        self.topics = TOPICS
        self.low = 0
        self.owned = True
        self.confirmed = 0

    def identity(self) -> Identity:
        return self.topics

    def changelog_range(self, partition: int) -> tuple[int, int]:
        return self.low, super().changelog_range(partition)[1]

    def confirm(self, partition: int) -> bool:
        assert partition == 0
        self.confirmed += 1
        return self.owned

    def put(self, user: str, last_offset: int) -> None:
        """A record that some worker has sent."""
        if not self.entries:  # a worker's first record says to which topics the changelog belongs
            table = self.table("some")
            table.open([0])
            table.close(0)
        self.send({0: Outgoing(states=[(user.encode(), record(last_offset))])})

    def gap(self) -> None:
        """An offset without a record: a transaction's marker, or what compaction took."""
        self.world.end[0] += 1

    def table(self, name: str = "own", history_length: int = 100) -> UserTable:
        return UserTable(self.world.directory / name, self, self.confirm, history_length)

    @property
    def entries(self) -> list[Entry]:
        return self.world.changelog[0]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def record(last_offset: int) -> bytes:
    return encode(StateRecord(last_offset=last_offset))


def offset_of(table: UserTable, user: str) -> int | None:
    (value,) = table.get(0, [user.encode()])
    return None if value is None else decode_last_offset(value)


def opened_once(cluster: Cluster) -> UserTable:
    """A table that wrote users u and v, and was closed."""
    table = cluster.table()
    table.open([0])[0]
    records = {b"u": record(3), b"v": record(4)}
    offsets = cluster.send({0: Outgoing(states=list(records.items()))})[0]
    assert table.store(0, records, offsets, 5)
    table.close(0)
    return table


# opening


def test_a_new_partition_gets_one_record_that_says_to_which_topics_the_changelog_belongs(cluster: Cluster):
    for name in ("first", "second"):
        cluster.table(name).open([0])[0]
    assert [entry.key for entry in cluster.entries] == [b"\xffidentity"]


def test_what_was_stored_is_there_after_a_restart_without_reading_the_changelog(cluster: Cluster):
    table = opened_once(cluster)
    assert table.open([0])[0] == Recovered(0, set())
    assert (offset_of(table, "u"), offset_of(table, "v"), offset_of(table, "w")) == (3, 4, None)
    assert table.input_position(0) == 5


@pytest.mark.parametrize("disk", ["own", "new disk"])
def test_another_history_length_is_refused_since_the_states_depend_on_it(cluster: Cluster, disk: str):
    opened_once(cluster)
    with pytest.raises(Refused, match=r'"history_length": 100.*"history_length": 50'):
        cluster.table(disk, history_length=50).open([0])[0]


def test_a_lost_disk_is_rebuilt_from_the_changelog(cluster: Cluster):
    opened_once(cluster)
    table = cluster.table("new disk")
    assert table.open([0])[0].records == 3
    assert (offset_of(table, "u"), offset_of(table, "v")) == (3, 4)
    assert table.input_position(0) == 0


def test_only_what_is_new_is_read_after_another_worker_had_the_partition(cluster: Cluster):
    table = opened_once(cluster)
    cluster.put("u", 9)
    assert table.open([0])[0].records == 1
    assert (offset_of(table, "u"), offset_of(table, "v")) == (9, 4)


def test_a_gap_at_the_changelogs_end_is_passed(cluster: Cluster):
    cluster.put("u", 1)
    cluster.gap()
    table = cluster.table()
    table.open([0])[0]
    assert offset_of(table, "u") == 1
    assert not table.overtaken(0)


def test_partitions_are_open_between_open_and_close(cluster: Cluster):
    table = cluster.table()
    table.open([0])[0]
    assert table.partitions == [0]
    table.close(0)
    assert table.partitions == []


# refusing


def refusal(cluster: Cluster, name: str = "own") -> str:
    """Why the partition is not opened, twice: the first refusal must leave the store closed, and wrote nothing."""
    before = list(cluster.entries)
    messages = []
    for _ in range(2):
        with pytest.raises(Refused) as raised:
            cluster.table(name).open([0])[0]
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert cluster.entries == before
    assert "\n" not in messages[0]
    return messages[0]


@pytest.mark.parametrize("change", [{"interactions": "2"}, {"changelog": "2"}, {"partitions": 32}])
def test_a_store_of_other_topics_is_refused_and_the_message_names_both_and_what_mends_it(
    cluster: Cluster, change: dict[str, object]
):
    opened_once(cluster)
    cluster.topics = TOPICS._replace(**change)
    message = refusal(cluster)
    directory = cluster.world.directory / "own" / "0"
    assert f"remove {directory} to rebuild it from the changelog" in message
    (field,) = change
    for topics in (TOPICS, cluster.topics):
        assert str(getattr(topics, field)) in message


@pytest.mark.parametrize("change", [{"interactions": "2"}, {"partitions": 32}])
def test_a_changelog_of_other_topics_is_refused_on_a_new_disk(cluster: Cluster, change: dict[str, object]):
    opened_once(cluster)
    cluster.topics = TOPICS._replace(**change)
    message = refusal(cluster, "new disk")
    assert "changelog partition 0 belongs to" in message
    assert "`python -m ops reset` or a new RECOMMENDER_APP processes the log again" in message


def test_a_store_ahead_of_its_changelog_is_refused_and_the_message_says_what_mends_it(cluster: Cluster):
    opened_once(cluster)
    cluster.world.changelog[0].pop()
    cluster.world.end[0] -= 1
    directory = cluster.world.directory / "own" / "0"
    assert refusal(cluster) == (
        f"{directory} reflects the changelog up to offset 3, which ends at 2: the changelog has lost "
        "states, `python -m ops rebuild --from store` writes it again"
    )
    shutil.rmtree(directory)
    cluster.table().open([0])[0]


def test_records_that_do_not_say_to_which_topics_they_belong_are_refused(cluster: Cluster):
    opened_once(cluster)
    cluster.world.changelog[0].pop(0)
    message = refusal(cluster, "new disk")
    assert "changelog partition 0 has 2 records and none of them says to which topics it belongs" in message
    assert "`python -m ops reset`" in message


def test_a_changelog_that_was_truncated_beyond_the_store_is_refused(cluster: Cluster):
    opened_once(cluster)
    for last_offset in (5, 6):
        cluster.put("u", last_offset)
    cluster.low = 4
    message = refusal(cluster)
    assert "changelog partition 0 starts at offset 4" in message
    assert "needs it from 3" in message
    assert "`python -m ops rebuild --from store`" in message
    assert "`python -m ops rebuild --from log`" in message


def test_a_truncated_changelog_is_refused_on_a_new_disk(cluster: Cluster):
    opened_once(cluster)
    cluster.low = 1
    assert "needs it from 0" in refusal(cluster, "new disk")


def test_a_changelog_truncated_up_to_the_stores_position_is_enough(cluster: Cluster):
    table = opened_once(cluster)
    cluster.low = 3
    table.open([0])[0]
    assert offset_of(table, "u") == 3


# other writers


@pytest.mark.parametrize("between", [0, 1, 2, 5])
def test_the_higher_last_offset_wins_and_the_stale_record_behind_it_is_healed(cluster: Cluster, between: int):
    cluster.put("u", 9)
    for n in range(between):  # so that both records come in one batch or in two
        cluster.put(f"other {n}", 1)
    cluster.put("u", 7)
    table = cluster.table()
    assert table.open([0])[0].healed == {b"u"}
    assert offset_of(table, "u") == 9
    assert cluster.world.newest(0)[b"u"] == record(9)
    assert cluster.table("another disk").open([0])[0].healed == set()


def test_a_stale_record_that_a_newer_one_follows_needs_no_healing(cluster: Cluster):
    for last_offset in (9, 7, 11):
        cluster.put("u", last_offset)
    table = cluster.table()
    assert table.open([0])[0].healed == set()
    assert offset_of(table, "u") == 11
    assert cluster.confirmed == 0


def test_a_stale_record_behind_the_stores_own_is_healed(cluster: Cluster):
    table = opened_once(cluster)
    cluster.put("v", 2)
    assert table.open([0])[0].healed == {b"v"}
    assert offset_of(table, "v") == 4
    assert cluster.world.newest(0)[b"v"] == record(4)


users = st.sampled_from(["u", "v", "w"])
histories = st.lists(st.tuples(users, st.integers(0, 9)), max_size=12)


@settings(max_examples=20)  # each opens three stores
@given(histories, histories)
def test_store_and_compacted_changelog_agree_on_the_highest_offset_whatever_was_written(
    tmp_path_factory: pytest.TempPathFactory, before: list[tuple[str, int]], after: list[tuple[str, int]]
):
    cluster = Cluster(tmp_path_factory.mktemp("disks"))
    table = cluster.table()
    for history in (before, after):
        for user, last_offset in history:
            cluster.put(user, last_offset)
        table.open([0])[0]
        table.close(0)
    table.open([0])[0]
    highest = {user: max(o for u, o in before + after if u == user) for user, _ in before + after}
    assert {user: offset_of(table, user) for user in highest} == highest
    assert cluster.world.newest(0) == {user.encode(): record(offset) for user, offset in highest.items()}
    assert not table.overtaken(0)
    table.close(0)


@pytest.mark.parametrize("offsets", [[2], [-1], [0], [], [1, 2]])
def test_offsets_that_do_not_continue_our_own_keep_everything_as_it_was(cluster: Cluster, offsets: list[int]):
    table = cluster.table()
    table.open([0])[0]  # the identity has offset 0
    assert not table.store(0, {b"u": record(1)}, offsets, 5)
    assert offset_of(table, "u") is None
    assert table.input_position(0) == 0
    assert table.store(0, {b"u": record(1)}, [1], 5)


def test_offsets_may_be_acknowledged_in_any_order(cluster: Cluster):
    table = cluster.table()
    table.open([0])[0]
    assert table.store(0, {b"u": record(1), b"v": record(2), b"w": record(3)}, [3, 1, 2], 5)


def test_a_round_without_records_moves_the_input_position_only(cluster: Cluster):
    table = cluster.table()
    table.open([0])[0]
    assert table.store(0, {}, [], 8)
    assert table.input_position(0) == 8
    assert not table.overtaken(0)


def test_another_writer_is_noticed_and_its_newer_records_are_taken_in(cluster: Cluster):
    table = cluster.table()
    table.open([0])[0]
    cluster.put("u", 9)
    assert table.overtaken(0)
    assert table.heal(0).records == 1
    assert offset_of(table, "u") == 9
    assert not table.overtaken(0)


def test_a_worker_that_lost_the_partition_neither_heals_nor_writes(cluster: Cluster):
    table = opened_once(cluster)
    table.open([0])[0]
    cluster.put("u", 2)
    before = list(cluster.entries)
    cluster.owned = False
    with pytest.raises(NotOwner):
        table.heal(0)
    assert cluster.entries == before
    table.close(0)
    with pytest.raises(NotOwner):
        table.open([0])[0]
    assert cluster.entries == before


class ContendedCluster(Cluster):
    """A rival writes before and after everything that is sent, each time over user u's record."""

    def send(self, outgoing: Mapping[int, Outgoing]) -> dict[int, list[int]]:
        rival = {0: Outgoing(states=[(b"u", record(7))])}
        super().send(rival)
        offsets = super().send(outgoing)
        super().send(rival)
        return offsets


def test_a_writer_that_does_not_stop_makes_us_give_up(tmp_path: Path):
    contended = ContendedCluster(tmp_path)
    contended.put("u", 9)
    with pytest.raises(NotOwner, match="keeps writing to partition 0"):
        contended.table().open([0])[0]


# crashes


class PhotographedStore(Store):
    """Copies its directory after every write: what a process that is killed there leaves behind."""

    photographs: list[Path]

    def write(
        self,
        records: Mapping[bytes, bytes | None],
        changelog_position: int,
        input_position: int | None = None,
        *,
        logged: bool = True,
    ) -> None:
        super().write(records, changelog_position, input_position, logged=logged)
        copy = self.path.with_name(f"photograph {len(self.photographs)}")
        shutil.copytree(self.path, copy, ignore=shutil.ignore_patterns("LOCK"))
        self.photographs.append(copy)


@pytest.mark.parametrize("gap", [False, True])
def test_a_kill_at_any_moment_of_a_recovery_leaves_a_position_whose_records_are_there(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, gap: bool
):
    for n in range(8):
        cluster.put(f"u{n}", n)
    if gap:
        cluster.gap()
    PhotographedStore.photographs = []
    monkeypatch.setattr(user_table, "Store", PhotographedStore)
    cluster.table().open([0])[0]
    monkeypatch.undo()
    assert len(PhotographedStore.photographs) >= 3
    for photograph in PhotographedStore.photographs:
        store = Store(photograph)
        expected = {entry.key: entry.value for entry in cluster.entries if entry.offset < store.changelog_position}
        expected.pop(b"\xffidentity", None)
        assert dict(store.items()) == expected
        store.close()
