from schemas.settings import Settings
from schemas.topics import Topic, topics

SETTINGS = Settings(
    app="shop", partitions=5, interactions="i", recommendations="r", dead_letters="d", models="m", items="t"
)
BY_NAME = {topic.name: topic for topic in topics(SETTINGS)}


def test_every_topic_of_the_settings_is_there():
    assert set(BY_NAME) == {"i", "r", "d", "shop-users-changelog", "m", "t"}


def test_topics_that_hold_users_have_the_same_partition_count():
    assert {BY_NAME[name].partitions for name in ("i", "r", "shop-users-changelog")} == {5}


def test_topics_that_every_worker_reads_have_one_partition():
    assert BY_NAME["m"].partitions == BY_NAME["t"].partitions == 1


def test_policies_are_those_of_the_contract():
    assert {name: topic.config["cleanup.policy"] for name, topic in BY_NAME.items()} == {
        "i": "delete",
        "r": "compact,delete",
        "d": "delete",
        "shop-users-changelog": "compact",
        "m": "compact",
        "t": "compact",
    }


def test_the_changelog_is_not_compacted_within_an_hour():
    assert int(BY_NAME["shop-users-changelog"].config["min.compaction.lag.ms"]) >= 3600 * 1000


def test_no_topic_that_must_be_kept_whole_expires():
    expiring: list[Topic] = [topic for topic in BY_NAME.values() if "retention.ms" in topic.config]
    assert {topic.name for topic in expiring} == {"i", "r", "d"}
