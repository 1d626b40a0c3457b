from schemas.state import RECENT_EVENT_IDS
from training.log.histories import Histories, HistoryBuilder


def by_user(histories: Histories) -> list[list[str]]:
    return [
        [histories.item_ids[row] for row in histories.items[begin:end]]
        for begin, end in zip(histories.users.begin, histories.users.end, strict=True)
    ]


def test_events_are_grouped_by_user_in_the_order_of_the_log() -> None:
    builder = HistoryBuilder()
    for user, item, time in [("a", "x", 9), ("b", "y", 5), ("a", "y", 3), ("b", "z", 5)]:
        builder.add(user, item, time)
    histories = builder.build()
    assert by_user(histories) == [["x", "y"], ["y", "z"]]
    assert histories.timestamps_ms.tolist() == [9, 3, 5, 5]


def test_a_repeated_event_id_is_dropped_only_for_its_user_and_only_while_it_is_remembered() -> None:
    builder = HistoryBuilder()
    builder.add("a", "first", 0, "e0")
    builder.add("a", "repeat", 0, "e0")
    builder.add("b", "other", 0, "e0")
    for number in range(RECENT_EVENT_IDS):
        builder.add("a", "x", 0, f"f{number}")
    builder.add("a", "late", 0, "e0")
    assert by_user(builder.build()) == [["first", *["x"] * RECENT_EVENT_IDS, "late"], ["other"]]
    assert builder.repeated == 1


def test_forgetting_leaves_neither_events_nor_items_nor_event_ids() -> None:
    builder = HistoryBuilder()
    builder.add("a", "secret", 0, "e")
    builder.add("b", "x", 0)
    builder.forget("a")
    builder.forget("nobody")
    histories = builder.build()
    assert (by_user(histories), histories.item_ids) == ([["x"]], ["x"])
    builder.add("a", "new", 0, "e")
    assert by_user(builder.build()) == [["x"], ["new"]]


def test_users_and_rows_are_numbered_as_if_the_forgotten_had_never_been() -> None:
    builder = HistoryBuilder()
    builder.add("a", "y", 0)
    builder.add("b", "x", 0)
    builder.forget("a")
    builder.add("b", "y", 0)
    assert builder.build().item_ids == ["x", "y"]


def test_an_empty_log_has_no_users_and_no_items() -> None:
    histories = HistoryBuilder().build()
    assert (len(histories.users), histories.item_ids) == (0, [])
