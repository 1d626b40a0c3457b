"""`python -m ops rebuild`: states are made again from what is left of them: stores, changelog or events."""

import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final, Literal

from confluent_kafka import Consumer, TopicPartition
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ops.local_stores import LocalStore, choose, open_store, read_stores
from ops.refold import refold
from ops.reset import find_stores, forget_offsets, members, refuse_members, renew_changelog
from ops.topics import admin, check, require
from schemas import logs
from schemas.kafka import TIMEOUT_S, consumer_config, read_range, watermarks
from schemas.report import SHORTCUTS, Report
from schemas.settings import DONE, Refused
from schemas.state import CHANGELOG_IDENTITY
from schemas.topics import topics
from stream_app.broker import NotOwner, Outgoing, Record
from stream_app.kafka_broker import KafkaBroker
from stream_app.user_table import TableIdentity, UserTable

_SENT_AT_ONCE: Final = 5_000
"""states: 15 MB"""
_BESIDE: Final = ".rebuilding"
"""what the folder of a worker's new stores is called besides its id until they are complete"""


class Rebuild(Report):
    """make the users' states again: --from store, changelog or log"""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(cli_shortcuts={**SHORTCUTS, "source": "from"})

    source: Literal["store", "changelog", "log"] = Field(
        description="store: write a lost changelog from workers' stores; changelog: fill a stopped worker's stores; "
        "log: compute the states from the events"
    )
    data_dir: Path = Field(Path("data"), description="the workers' data_dir on this host")
    worker_id: str = Field(
        default_factory=socket.gethostname,
        pattern=r"^[a-zA-Z0-9._-]{1,128}$",
        description="whose stores are made, from the changelog or the log",
    )
    only: str = Field(
        "", pattern=r"^(\d+(,\d+)*)?$", description="from the changelog, partitions 0,3,...; all if omitted"
    )
    history_length: int = Field(100, ge=2, le=10_000, description="the workers' history_length, from changelog or log")
    skip_records: str = Field(
        "", pattern=r"^(\d+:\d+(,\d+:\d+)*)?$", description="the workers' skip_records, from the log"
    )

    def run(self) -> int:
        """Check, do it, and say what was done.

        Raises:
            Refused: workers run, or what is to be read is incomplete or of other topics; nothing was changed.
            KafkaException: the cluster cannot be reached.
        """
        logs.configure("INFO")  # how far it is
        with admin(self, "rebuild") as client:
            require(client, self.interactions)
            check(client, [topic for topic in topics(self) if topic.name != self.changelog])
        began = time.monotonic()
        lines, result = {"store": self._from_store, "changelog": self._from_changelog, "log": self._from_log}[
            self.source
        ]()
        seconds = time.monotonic() - began
        self.report("\n".join([*lines, f"Done in {seconds:.1f} s."]), **result, seconds=round(seconds, 3))
        return DONE

    # from the changelog

    def _from_changelog(self) -> tuple[list[str], dict[str, object]]:
        """New stores beside the old ones, which they then replace: the worker may be killed, so may this."""
        running = members(self)
        if self.worker_id in running:
            raise Refused(
                f"worker {self.worker_id} is a member of group {self.app}: stop it, and wait until its "
                "session_timeout_s is over"
            )
        wanted = sorted(set(map(int, self.only.split(",")))) if self.only else list(range(self.partitions))
        if wanted[-1] >= self.partitions:
            raise Refused(f"only {self.only}: partitions are 0 to {self.partitions - 1}")
        directory = self.data_dir / self.app / self.worker_id
        beside = directory.with_name(directory.name + _BESIDE)
        broker = KafkaBroker(self)
        self._refuse_newer_stores(directory, broker)
        shutil.rmtree(beside, ignore_errors=True)
        # while others run, the one that owns a partition heals it
        table = UserTable(beside, broker, lambda _: not running, self.history_length)
        try:
            recovered = table.open(wanted)
        except NotOwner as found:
            raise Refused(f"{found}: while that worker runs, start this one without stores instead") from None
        for partition in wanted:
            table.close(partition)
        for partition in wanted:
            _replace(beside / str(partition), directory / str(partition))
        beside.rmdir()
        records = sum(one.records for one in recovered.values())
        return [
            f"changelog  {records:,} records of {len(wanted)} partitions of {self.changelog} were read",
            f"stores     {directory} reflects them; worker {self.worker_id} starts with what comes after",
        ], {"records": records, "partitions": wanted, "stores": str(directory)}

    def _refuse_newer_stores(self, directory: Path, broker: KafkaBroker) -> None:
        """Refuse to replace what the changelog does not have."""
        for path in (path for path in find_stores(self.data_dir, self.app) if path.parent == directory):
            store = open_store(path)
            try:
                identity = TableIdentity.of(broker.identity(), self.history_length).in_store
                end = broker.changelog_range(int(path.name))[1]
                if store.identity not in (None, identity) or store.changelog_position > end:
                    raise Refused(
                        f"{path} has states that the changelog may lack: remove it if they are not wanted, or write "
                        "the changelog from the stores with `python -m ops rebuild --from store`"
                    )
            finally:
                store.close()

    # from stores

    def _from_store(self) -> tuple[list[str], dict[str, object]]:
        refuse_members(self)
        self._make_changelog_if_missing()
        stores = read_stores(self.data_dir, self.app)
        return self._write_changelog(stores, choose(stores, KafkaBroker(self).identity(), self.data_dir))

    def _write_changelog(
        self, stores: list[LocalStore], chosen: list[LocalStore]
    ) -> tuple[list[str], dict[str, object]]:
        """The changelog anew from the chosen stores, which then are the only ones.

        When it ends halfway it can be done again; workers that are started in between process the whole log, since the
        group has no offsets until all is written.
        """
        behind = [store for store in stores if store not in chosen]
        for store in behind:
            shutil.rmtree(store.path)
        forget_offsets(self)
        with admin(self) as client:
            renew_changelog(client, self)
        broker = KafkaBroker(self)
        identity = TableIdentity.of(broker.identity(), chosen[0].history_length)
        written = sum(_write_partition(broker, store, identity) for store in chosen)
        again, expired = self._set_offsets({store.partition: store.input_position for store in chosen})
        lines = [
            f"stores     {len(chosen)} in {self.data_dir} were read; {len(behind)} that were behind are deleted",
            f"changelog  {self.changelog} was made anew with the states of {written:,} users",
            f"offsets    group {self.app} goes on where the stores are: {again:,} events are still to be processed",
            "           on every other host delete the app's folder in the workers' data_dir",
        ]
        if expired:
            lines.append(f"expired    {expired:,} events after the stores are gone from the log")
        return lines, {"users": written, "stores": len(chosen), "deleted": len(behind), "left": again, "gone": expired}

    def _make_changelog_if_missing(self) -> None:
        with admin(self) as client:
            if self.changelog not in client.list_topics():
                renew_changelog(client, self)

    def _set_offsets(self, positions: Mapping[int, int]) -> tuple[int, int]:
        """Commit where the workers go on; events to be processed, and events before them that are gone."""
        consumer = Consumer(consumer_config(self) | {"group.id": self.app})
        try:
            ranges = {partition: watermarks(consumer, self.interactions, partition) for partition in positions}
            starts = {partition: max(position, ranges[partition][0]) for partition, position in positions.items()}
            offsets = [TopicPartition(self.interactions, partition, start) for partition, start in starts.items()]
            consumer.commit(offsets=offsets, asynchronous=False)
        finally:
            consumer.close()
        again = sum(max(0, ranges[partition][1] - start) for partition, start in starts.items())
        return again, sum(starts[partition] - position for partition, position in positions.items() if position)

    # from the log

    def _from_log(self) -> tuple[list[str], dict[str, object]]:
        """The events that the group has done, into new stores, and these into the changelog.

        Their lists were sent; events that the group has not done yet get theirs from the workers.
        """
        refuse_members(self)
        if self.history_length % 2:
            raise Refused(f"history_length {self.history_length}: must be even")
        ranges = self._done()
        self._make_changelog_if_missing()
        identity = TableIdentity.of(KafkaBroker(self).identity(), self.history_length)
        directory = self.data_dir / self.app / self.worker_id
        beside = directory.with_name(directory.name + _BESIDE)
        shutil.rmtree(beside, ignore_errors=True)
        events = 0
        for partition, (low, end) in ranges.items():
            store = open_store(beside / str(partition))
            try:
                skipped = [
                    int(offset)
                    for number, _, offset in (place.partition(":") for place in self.skip_records.split(","))
                    if number == str(partition)
                ]
                events += refold(
                    store,
                    partition,
                    self.partitions,
                    self._events(partition, low, end),
                    end,
                    self.history_length,
                    self.event_codec.decode,
                    skipped,
                )
                store.stamp(identity.in_store, 0)
            finally:
                store.close()
        for path in find_stores(self.data_dir, self.app):
            if path.parent != beside:
                open_store(path).close()  # in use: refused
                shutil.rmtree(path)
        for partition in ranges:
            _replace(beside / str(partition), directory / str(partition))
        beside.rmdir()
        gone = sum(low for low, _ in ranges.values())
        stores = read_stores(self.data_dir, self.app)
        lines, result = self._write_changelog(stores, choose(stores, KafkaBroker(self).identity(), self.data_dir))
        lines.insert(0, f"log        {events:,} records of {self.interactions} were read, up to the group's offsets")
        if gone:
            lines.append(f"expired    {gone:,} records are gone from the log: the states lack them")
        return lines, {**result, "events": events, "gone": gone}

    def _done(self) -> dict[int, tuple[int, int]]:
        """By partition, where the log begins and how far the group has done it."""
        consumer = Consumer(consumer_config(self) | {"group.id": self.app})
        try:
            wanted = [TopicPartition(self.interactions, partition) for partition in range(self.partitions)]
            committed = {one.partition: one.offset for one in consumer.committed(wanted, TIMEOUT_S)}
            lows = {partition: watermarks(consumer, self.interactions, partition)[0] for partition in committed}
        finally:
            consumer.close()
        if not any(offset >= 0 for offset in committed.values()):
            raise Refused(
                f"group {self.app} has no offsets, so its workers process the whole log: start them; if a rebuild was "
                "interrupted, finish it with `python -m ops rebuild --from store`"
            )
        return {partition: (lows[partition], max(lows[partition], offset)) for partition, offset in committed.items()}

    def _events(self, partition: int, start: int, end: int) -> Iterator[list[Record]]:
        for messages in read_range(self, self.interactions, partition, start, end):
            yield [Record(m.offset() or 0, m.key(), m.value(), m.timestamp()[1]) for m in messages]


def _write_partition(broker: KafkaBroker, chosen: LocalStore, identity: TableIdentity) -> int:
    """Send a store's states to the empty changelog and let the store reflect it; number of users."""
    store = open_store(chosen.path)
    try:
        states = store.items()
        chunk, position = [(CHANGELOG_IDENTITY, identity.on_changelog), *islice(states, _SENT_AT_ONCE)], 0
        while chunk:
            offsets = broker.send({chosen.partition: Outgoing(states=chunk)})[chosen.partition]
            if sorted(offsets) != list(range(position, position + len(chunk))):
                raise Refused("another program writes to the changelog: stop it, and do this again")
            position += len(chunk)
            chunk = list(islice(states, _SENT_AT_ONCE))
        store.stamp(identity.in_store, position)
        return position - 1
    finally:
        store.close()


def _replace(new: Path, old: Path) -> None:
    if old.exists():
        shutil.rmtree(old)
    old.parent.mkdir(parents=True, exist_ok=True)
    new.rename(old)
