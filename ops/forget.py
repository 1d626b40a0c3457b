"""`python -m ops forget`: asks for a user to be forgotten, waits until it is done, and proves it later."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import CliPositionalArg

from ops.dead_letters import read
from ops.topics import admin, require
from schemas import recommendation, state
from schemas.artefact_store import ArtefactStore
from schemas.event import identifier
from schemas.kafka import TIMEOUT_S, consumer_config, describe_topics, producer_config, read_range, watermarks
from schemas.report import Report
from schemas.settings import DONE, FAILED, Refused, Settings
from training.log.archive import Archive
from training.log.columns import user_digest
from training.log.interactions import open_archive

_POLL_S: Final = 0.1


class Receipt(BaseModel):
    """What was done for a user who is named by a hash only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str
    """BLAKE2b-128 of the user id, hexadecimal"""
    topic: str
    """where the tombstone is, with `partition` and `offset`"""
    partition: int
    offset: int
    sent_at_ms: int
    changelog_offset: int | None = None
    """of the record that says that the user is forgotten; None: no worker has written it yet"""
    recommendations_offset: int | None = None
    """of the null that withdraws the lists; None: no worker has sent it yet"""
    archive_events_before: int | None
    """events of the user in the training archive; None: there is no archive"""
    archive_events_after: int | None
    models: list[int]
    """versions in the store that were trained before"""

    @property
    def obeyed(self) -> bool:
        """Whether a worker has done its part."""
        return self.changelog_offset is not None and self.recommendations_offset is not None


class Finding(NamedTuple):
    """One thing that must be gone."""

    gone: bool
    said: str


class Forget(Report):
    """let everything of a user be deleted, write a receipt, and check it later with --verify"""

    user: CliPositionalArg[str] = Field(description="user id")
    yes: bool = Field(False, description="do it; without, nothing is sent")
    verify: bool = Field(False, description="check what a receipt says, and what is left")
    receipt: Path | None = Field(None, description="file of the receipt; forget-HASH.json if omitted")
    timeout_s: float = Field(60.0, gt=0, description="seconds to wait for a worker")

    @field_validator("user")
    @classmethod
    def _user_is_a_user_id(cls, user: str) -> str:
        return identifier("user_id", user)

    @property
    def receipt_path(self) -> Path:
        """Where the receipt is."""
        return self.receipt or Path(f"forget-{digest(self.user)[:16]}.json")

    def run(self) -> int:
        """Do it, or check it.

        Raises:
            Refused: a topic is missing, or the receipt, the archive or the store cannot be read or written.
            KafkaException: the cluster cannot be reached.
            Malformed: a file of the archive is damaged.
        """
        with admin(self, "forget") as client:
            require(client, self.interactions, self.recommendations, self.changelog, self.dead_letters)
        try:
            return self._verify() if self.verify else self._forget()
        except TimeoutError:
            raise
        except OSError as error:
            raise Refused(f"archive {self.archive} or artefact store {self.artefact_store}: {error}") from None

    def _forget(self) -> int:
        path, archive = self.receipt_path, open_archive(self)
        before = archive.events_of(self.user) if archive else None
        if not self.yes:
            lines = [
                f"events     of this user on {self.interactions} count no more, state and history are deleted",
                f"lists      on {self.recommendations} are withdrawn",
                f"archive    {_events(before, self.archive)}; the next training removes them",
                f"receipt    is written to {path}",
                "Nothing was changed: --yes does it.",
            ]
            self.report("\n".join(lines), done=False, archive_events=before, receipt=str(path))
            return DONE
        if not path.parent.is_dir():
            raise Refused(f"receipt {path}: there is no folder {path.parent}")
        reader = Consumer(consumer_config(self))
        try:
            starts = _ends(self, reader)
            partition, offset = send_tombstone(self, self.user)
            receipt = Receipt(
                user=digest(self.user),
                topic=self.interactions,
                partition=partition,
                offset=offset,
                sent_at_ms=time.time_ns() // 1_000_000,
                archive_events_before=before,
                archive_events_after=before,
                models=_trained_before(self, partition, offset),
            )
            _write(path, receipt)  # what is sent is sent, even if the waiting ends badly
            receipt = self._await(reader, receipt, {topic: ends[partition] for topic, ends in starts.items()})
        finally:
            reader.close()
        after = archive.events_of(self.user) if archive else None
        receipt = receipt.model_copy(update={"archive_events_after": after})
        _write(path, receipt)
        lines = [
            f"tombstone  {receipt.topic}, partition {partition}, offset {offset}",
            f"state      {_at(self.changelog, receipt.changelog_offset)}",
            f"lists      {_at(self.recommendations, receipt.recommendations_offset)}",
            f"archive    {_events(after, self.archive)}; the next training removes them",
            f"models     {len(receipt.models)} in the store were trained before: {_listed(receipt.models)}",
            f"receipt    {path}",
        ]
        if not receipt.obeyed:
            lines.append(f"No worker has obeyed within {self.timeout_s:g} s: start one, then check with --verify.")
        self.report("\n".join(lines), done=receipt.obeyed, path=str(path), receipt=receipt.model_dump())
        return DONE if receipt.obeyed else FAILED

    def _await(self, reader: Consumer, receipt: Receipt, positions: dict[str, int]) -> Receipt:
        """The receipt with what a worker has written since `positions`, by topic."""
        deadline = time.monotonic() + self.timeout_s
        while not receipt.obeyed and time.monotonic() < deadline:
            for message in self._new(reader, receipt.partition, positions):
                value = message.value()
                if message.topic() == self.recommendations and value is None:
                    receipt = receipt.model_copy(update={"recommendations_offset": message.offset()})
                elif message.topic() == self.changelog and value and state.decode_last_offset(value) >= receipt.offset:
                    receipt = receipt.model_copy(update={"changelog_offset": message.offset()})
            time.sleep(_POLL_S)
        return receipt

    def _new(self, reader: Consumer, partition: int, positions: dict[str, int]) -> Iterator[Message]:
        for topic, position in positions.items():
            end = watermarks(reader, topic, partition)[1]
            yield from _of_user(self, topic, partition, position, end, self.user)
            positions[topic] = end

    def _verify(self) -> int:
        receipt, archive = self._read_receipt(), open_archive(self)
        reader = Consumer(consumer_config(self))
        try:
            low, high = watermarks(reader, self.interactions, receipt.partition)
            states, lists = (
                list(_of_user(self, topic, receipt.partition, *watermarks(reader, topic, receipt.partition), self.user))
                for topic in (self.changelog, self.recommendations)
            )
        finally:
            reader.close()
        archived = self._archived(archive, receipt) if archive else None
        receipt = self._completed(receipt, states, lists, archived)
        findings = {
            "state": of_state(states[-1].value() if states else None, receipt.offset, expired=low > receipt.offset),
            "lists": of_lists(lists[-1].value() if lists else None, receipt.offset),
            "archive": self._of_archive(archived),
            "training": self._of_training(low, high, receipt),
        }
        letters = sum(letter.key == self.user.encode() for letter in read(self, 0).letters)
        stored = {manifest.version for manifest in ArtefactStore(self.artefact_store).manifests()}
        models = [version for version in receipt.models if version in stored]
        before = f"events before offset {receipt.offset} of partition {receipt.partition}, until retention"
        left = {
            self.interactions: before if low < receipt.offset else "nothing from before",
            self.dead_letters: f"{letters:,} dead letters with this key, until retention",
            self.changelog: f"{max(0, len(states) - 1):,} older records until compaction"
            + (", and the user id as the key of the last one" if states and states[-1].value() is not None else ""),
            self.recommendations: f"{max(0, len(lists) - 1):,} older lists until compaction",
            "stores": "on hosts whose worker had the partition once: the old state, until it has it again",
            "models": f"{len(models)} that were trained before: {_listed(models)}",
        }
        gone = all(finding.gone for finding in findings.values())
        lines = [f"{'gone' if found.gone else 'LEFT':<5}{name:<9} {found.said}" for name, found in findings.items()]
        lines += ["", "What goes by itself, or stays:", *(f"     {name}: {said}" for name, said in left.items())]
        lines += ["", "Everything that must be gone is gone." if gone else "Not everything that must be gone is gone."]
        self.report(
            "\n".join(lines),
            gone=gone,
            findings={name: found._asdict() for name, found in findings.items()},
            left=left,
            dead_letters=letters,
            receipt=receipt.model_dump(),
        )
        return DONE if gone else FAILED

    def _completed(
        self, receipt: Receipt, states: list[Message], lists: list[Message], archived: tuple[int, int] | None
    ) -> Receipt:
        """The receipt with what has come true since it was written, kept in its file as well."""
        update: dict[str, int | None] = {}
        if not receipt.obeyed:
            values = [(message.offset(), message.value()) for message in states]
            at = [offset for offset, value in values if value and state.decode_last_offset(value) >= receipt.offset]
            nulls = [message.offset() for message in lists if message.value() is None]
            if at:
                update = {"changelog_offset": at[0], "recommendations_offset": nulls[-1] if nulls else None}
        if archived is not None:
            update["archive_events_after"] = archived[0]
        completed = receipt.model_copy(update=update)
        if completed != receipt:
            _write(self.receipt_path, completed)
        return completed

    def _read_receipt(self) -> Receipt:
        path = self.receipt_path
        try:
            receipt = Receipt.model_validate_json(path.read_bytes())
        except OSError as error:
            raise Refused(f"receipt {path}: {error.strerror}: name the file that forget has written") from None
        except ValidationError as error:
            raise Refused(f"receipt {path} is none: {error.errors()[0]['msg']}") from None
        if receipt.user != digest(self.user):
            raise Refused(f"receipt {path} is of another user than {self.user!r}")
        if receipt.topic != self.interactions:
            raise Refused(f"receipt {path} is of topic {receipt.topic}, interactions is {self.interactions}")
        return receipt

    def _archived(self, archive: Archive, receipt: Receipt) -> tuple[int, int]:
        """Events of the user in the archive, from before the tombstone and since."""
        if not (events := archive.events_of(self.user)):
            return 0, 0
        table = archive.read(receipt.partition, archive.end(receipt.partition), {})
        of_user = pc.equal(table["user_id"].cast(pa.string()), self.user)
        since: int = pc.sum(pc.and_kleene(of_user, pc.greater(table["offset"], receipt.offset))).as_py() or 0
        return max(0, events - since), since

    def _of_archive(self, archived: tuple[int, int] | None) -> Finding:
        if archived is None:
            return Finding(True, "there is none")
        before, since = archived
        if before:
            return Finding(False, f"{before:,} events in {self.archive}: the next training removes them")
        return Finding(True, f"{since:,} events, all of them since" if since else _events(0, self.archive))

    def _of_training(self, low: int, high: int, receipt: Receipt) -> Finding:
        if low > receipt.offset:
            return Finding(True, "the log has no event from before any more")
        if receipt.offset < high:
            messages = _of_user(
                self, self.interactions, receipt.partition, receipt.offset, receipt.offset + 1, self.user
            )
            if any(message.value() is None for message in messages):
                return Finding(True, "the next one finds the tombstone on the log and leaves out what is before it")
        return Finding(False, f"offset {receipt.offset} is no tombstone of this user: was the topic made anew?")


def digest(user_id: str) -> str:
    """What a receipt calls a user, as the training archive does."""
    return user_digest(user_id).hex()


def of_state(value: bytes | None, offset: int, *, expired: bool = False) -> Finding:
    """Whether the changelog's last record of a user knows nothing from before the tombstone at `offset`.

    A worker that has read the tombstone leaves a mark, so no record is right only if the log has `expired` up to there.
    """
    if value is None:
        return Finding(expired, "there is none" if expired else "no mark: no worker has read the tombstone yet")
    record = state.decode(value)
    if record.last_offset < offset:
        return Finding(False, f"{record.events:,} events: no worker has read the tombstone yet")
    if record.forgotten:
        return Finding(True, f"forgotten at offset {record.last_offset}")
    return Finding(True, f"{record.events:,} events, all of them since")


def of_lists(value: bytes | None, offset: int) -> Finding:
    """Whether a user's last list knows nothing from before the tombstone at `offset`."""
    if value is None:
        return Finding(True, "withdrawn")
    found = recommendation.decode(value)
    return Finding(found.offset > offset, f"the last one knows the events up to offset {found.offset}")


def send_tombstone(settings: Settings, user_id: str) -> tuple[int, int]:
    """Ask for a user to be forgotten; partition and offset of the request.

    Raises:
        KafkaException: it was not acknowledged within 30 s.
    """
    delivered: list[tuple[KafkaError | None, Message]] = []
    producer = Producer(producer_config(settings) | {"message.timeout.ms": round(1000 * TIMEOUT_S)})
    producer.produce(settings.interactions, key=user_id, value=None, on_delivery=lambda *told: delivered.append(told))
    producer.flush(2 * TIMEOUT_S)
    error, message = delivered[0] if delivered else (KafkaError(KafkaError._MSG_TIMED_OUT), None)
    if error is not None or message is None:
        raise KafkaException(error)
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset


def _of_user(settings: Settings, topic: str, partition: int, start: int, end: int, user_id: str) -> Iterator[Message]:
    key = user_id.encode()
    for messages in read_range(settings, topic, partition, start, end):
        yield from (message for message in messages if message.key() == key)


def _ends(settings: Settings, reader: Consumer) -> dict[str, list[int]]:
    """End offsets of what a worker writes, by topic and partition."""
    return {
        topic: [watermarks(reader, topic, partition)[1] for partition in range(described.partitions)]
        for topic, described in describe_topics(settings, [settings.changelog, settings.recommendations]).items()
    }


def _trained_before(settings: Settings, partition: int, offset: int) -> list[int]:
    """Versions of the models in the store that may know events before `offset`."""
    manifests = ArtefactStore(settings.artefact_store).manifests()
    return [one.version for one in manifests if one.offsets.get(str(partition), 0) <= offset]


def _write(path: Path, receipt: Receipt) -> None:
    try:
        path.write_text(json.dumps(receipt.model_dump(), indent=2) + "\n")
    except OSError as error:
        where = f"{receipt.topic}, partition {receipt.partition}, offset {receipt.offset}"
        raise Refused(f"receipt {path}: {error.strerror}; the tombstone was sent: {where}") from None


def _events(events: int | None, archive: str) -> str:
    return "there is none" if events is None else f"{events:,} events in {archive}"


def _at(topic: str, offset: int | None) -> str:
    return f"{topic}, offset {offset}" if offset is not None else f"not yet on {topic}"


def _listed(versions: list[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
