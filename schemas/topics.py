"""The topics: their names, partition counts and policies."""

from typing import Final, NamedTuple

from schemas.settings import Settings

_DAY_MS: Final = 24 * 3600 * 1000


class Topic(NamedTuple):
    """A topic as it must be: `config` holds Kafka's topic settings as text."""

    name: str
    partitions: int
    config: dict[str, str]


def topics(settings: Settings) -> tuple[Topic, ...]:
    """Every topic of an app. Those that hold users have the same partition count: a user's list and state are in the
    partition of the user's events."""
    n = settings.partitions
    return (
        Topic(settings.interactions, n, {"cleanup.policy": "delete", "retention.ms": str(365 * _DAY_MS)}),
        Topic(settings.recommendations, n, {"cleanup.policy": "compact,delete", "retention.ms": str(30 * _DAY_MS)}),
        Topic(settings.dead_letters, n, {"cleanup.policy": "delete", "retention.ms": str(90 * _DAY_MS)}),
        Topic(
            settings.changelog,
            n,
            # a replica that reads the log may lag behind by this much and still see every record
            {"cleanup.policy": "compact", "min.compaction.lag.ms": str(_DAY_MS // 24)},
        ),
        Topic(settings.models, 1, {"cleanup.policy": "compact"}),
        Topic(settings.items, 1, {"cleanup.policy": "compact"}),
    )
