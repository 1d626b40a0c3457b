"""Starting an app over: its workers process the whole log again, into new states and new lists."""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient
from pydantic import Field

from ops.topics import admin, check, create, require
from schemas.kafka import TIMEOUT_S, client_config, consumer_config, watermarks
from schemas.report import Report
from schemas.settings import DONE, Refused, Settings
from schemas.topics import topics

_POLL_S: Final = 0.1
_NOT_YET: Final = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}


class Reset(Report):
    """let stopped workers process the log again from its beginning; says what that means, and does it with --yes"""

    yes: bool = Field(False, description="do it; without, nothing is changed")
    data_dir: Path | None = Field(None, description="the workers' data_dir on this host: delete the app's stores there")

    def run(self) -> int:
        """Check, say, and do it if so wished."""
        with admin(self, "reset") as client:
            require(client, self.interactions)
            check(client, [topic for topic in topics(self) if topic.name != self.changelog])
            refuse_members(self)
            events, expired = _log_size(self)
            stores = find_stores(self.data_dir, self.app) if self.data_dir else []
            if self.yes:
                # in this order, for when it ends halfway: offsets that go on beside an empty changelog lose the states
                forget_offsets(self)
                renew_changelog(client, self)
                for store in stores:
                    _remove(store)
        here = (
            f"{len(stores)} in {self.data_dir} are deleted" if self.data_dir else "none are deleted without --data-dir"
        )
        lines = [
            f"events     {events:,} of topic {self.interactions} are processed again, each user gets lists anew",
            f"offsets    of group {self.app} are forgotten",
            f"states     topic {self.changelog} is deleted and made anew, empty",
            f"stores     {here}; on every other host delete the folder {self.app} in the workers' data_dir",
        ]
        if expired:
            lines.append(f"expired    {expired:,} events are gone from the log: the new states will not have them")
        lines.append("Done. Start the workers." if self.yes else "Nothing was changed: --yes does it.")
        self.report(
            "\n".join(lines),
            done=self.yes,
            events=events,
            expired=expired,
            changelog=self.changelog,
            stores=[str(store) for store in stores],
        )
        return DONE


def refuse_members(settings: Settings) -> None:
    """Refuse to go on while workers of the app run.

    Raises:
        Refused: its group has members; every one is named.
        KafkaException: the cluster cannot be reached.
    """
    if found := members(settings):
        named = ", ".join(sorted(f"{worker_id} ({host})" for worker_id, host in found.items()))
        raise Refused(
            f"group {settings.app} has members: {named}: stop these workers; one that has stopped leaves the group "
            "when its session_timeout_s is over"
        )


def members(settings: Settings) -> dict[str, str]:
    """The workers of the app, and those that have stopped within their session: worker ids with their hosts.

    Raises:
        KafkaException: the cluster cannot be reached.
    """
    found = _answer(settings, AdminClient.describe_consumer_groups).members
    return {member.group_instance_id or member.member_id: member.host for member in found}


def forget_offsets(settings: Settings) -> None:
    """Delete the group, so that its workers begin where the log does; no harm if there is none.

    Raises:
        Refused: it has got a member.
        KafkaException: the cluster cannot be reached.
    """
    try:
        _answer(settings, AdminClient.delete_consumer_groups)
    except KafkaException as error:
        match error.args[0].code():
            case KafkaError.GROUP_ID_NOT_FOUND:
                pass
            case KafkaError.NON_EMPTY_GROUP:
                raise Refused(f"a worker has joined group {settings.app}: stop it") from None
            case _:
                raise


def renew_changelog(client: KafkaAdminClient, settings: Settings) -> None:
    """Delete the changelog and make it again, empty, with as many copies as it had.

    Raises:
        Refused: the broker refuses to make it.
        TimeoutError: it is still there after 30 s.
    """
    changelog = next(topic for topic in topics(settings) if topic.name == settings.changelog)
    replication = settings.replication
    if partitions := _partitions(client, changelog.name):
        replication = len(partitions[0]["replica_nodes"])
        client.delete_topics([changelog.name])
        deadline = time.monotonic() + TIMEOUT_S
        while _partitions(client, changelog.name):
            if time.monotonic() > deadline:
                raise TimeoutError(f"topic {changelog.name} was deleted and is still there after {TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
    create(client, [changelog], replication)


def find_stores(data_dir: Path, app: str) -> list[Path]:
    """The RocksDB of each worker and partition of an app on this host."""
    return sorted(path.parent for path in data_dir.glob(f"{app}/*/*/CURRENT"))


def _remove(store: Path) -> None:
    try:
        shutil.rmtree(store)
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}: delete {store} before a worker starts") from None


def _log_size(settings: Settings) -> tuple[int, int]:
    """Offsets in the log, and offsets that are gone from it."""
    reader = Consumer(consumer_config(settings))
    try:
        ranges = [watermarks(reader, settings.interactions, partition) for partition in range(settings.partitions)]
    finally:
        reader.close()
    return sum(high - low for low, high in ranges), sum(low for low, _ in ranges)


def _answer(settings: Settings, ask: Callable[..., dict[str, Future[Any]]]) -> Any:
    """What the coordinator of the app's group says; where there was no group before, one is only now found."""
    client, deadline = AdminClient(client_config(settings)), time.monotonic() + TIMEOUT_S
    while True:
        try:
            return ask(client, [settings.app], request_timeout=TIMEOUT_S)[settings.app].result()
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_S)


def _partitions(client: KafkaAdminClient, topic: str) -> list[dict[str, Any]]:
    [described] = client.describe_topics([topic])
    partitions: list[dict[str, Any]] = described["partitions"]
    return partitions
