"""`python -m ops dlq`: what could not be read, why, and once that is put right, the way back into the log."""

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from confluent_kafka import KafkaException, Producer
from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg

from ops.dead_letters import RETRIED, Letter, read
from ops.tombstones import Written, forgotten_since
from ops.topics import admin, require
from schemas.admission import denied
from schemas.event import MAX_VALUE_BYTES, decode_key, identifier
from schemas.field_mapping import Codec, FieldMapping, TimeUnit
from schemas.kafka import TIMEOUT_S, producer_config
from schemas.malformed import Malformed
from schemas.packing import unpack_map
from schemas.report import Report
from schemas.settings import DONE, Refused, Settings

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TRANSACTION: Final = 500
"""letters that are sent again in one transaction"""
_TRANSACTION_MS: Final = 60_000
_FIRST_BYTES: Final = 32
_EXPLAINED_BYTES: Final = 512
_TOLD: Final = 20
"""letters that a retry names one by one"""
_COLUMNS: Final = "{:<19}  {:>12}  {:<10}  {:<8}  {:<44}  {}"
_HEADS: Final = "WHEN (UTC)", "ORIGIN", "FIELD", "STATE", "RULE", "FIRST BYTES"

ADVICE: Final = {
    "key": "let the producer send the user id, 1 to 256 bytes of UTF-8, as the record's key; if the value names the "
    "user, dlq retry --rekey takes the key from there",
    "partition": "let the producer place keys by murmur2 (librdkafka: partitioner=murmur2_random); dlq retry sends the "
    "letter to the right partition",
    "value": "let the producer send a msgpack map or a JSON object of at most 64 KiB",
    "user_id": "if the producer has another name for it, set event_fields; if the key is wrong and the value is right, "
    "dlq retry --rekey takes the key from the value",
    "item_id": "if the producer has another name for it, set event_fields",
    "timestamp": "set event_time_unit to the producer's unit, or event_fields to the name of the field",
    "event_type": "let the producer send a text of 1 to 256 bytes, or nothing",
    "event_id": "let the producer send a text of 1 to 256 bytes, or nothing",
    "offset": "a worker's skip_records names it; once the worker can take it, dlq retry --only sends it again",
}
"""by field, what mends it"""


class Mended(NamedTuple):
    """A letter that is an event now, or a wish to be forgotten, as it is to be sent."""

    letter: Letter
    key: bytes
    value: bytes | None


class Form(NamedTuple):
    """How events stand on a topic."""

    mapping: FieldMapping | None
    codec: Codec

    @classmethod
    def of(cls, fields: str, unit: TimeUnit) -> "Form":
        """As the settings `event_fields` and `event_time_unit` name it."""
        if not fields and unit == "ms":
            return cls(None, Codec())
        mapping = FieldMapping.parse(fields, unit)
        return cls(mapping, mapping.codec)

    def user_of(self, value: bytes) -> bytes:
        """The key that belongs to a value.

        Raises:
            Malformed: it names no user.
        """
        fields = unpack_map(value, "value")
        return identifier("user_id", (self.mapping.read(fields) if self.mapping else fields).get("user_id")).encode()


def mend(letter: Letter, stands: Form, wanted: Form, *, rekey: bool = False) -> Mended:
    """Read a letter again.

    An event without a time has that of its record, and is sent again with it.

    Args:
        letter: with its whole value.
        stands: the form that it has.
        wanted: the form that workers read.
        rekey: take the key from the value.

    Raises:
        Malformed: it is still no event, or only a part of it is left.
    """
    key, value = letter.key, letter.value
    if letter.is_cut:
        rule = "was cut when it was dead-lettered: send it again from where it came from"
        raise Malformed("value", f"{letter.stored} of {letter.size} bytes", rule)
    if value is None:
        return Mended(letter, decode_key(key).encode(), None)
    if len(value) <= MAX_VALUE_BYTES and rekey:
        key = stands.user_of(value)
    event = stands.codec.decode(value, key, letter.record_ms)
    has_time = stands.codec.decode(value, key, letter.record_ms ^ 1) == event
    as_received = has_time and stands is wanted
    return Mended(letter, event.user_id.encode(), value if as_received else wanted.codec.encode(event))


class Dlq(Report):
    """list and explain what could not be read, and send it again once it can be"""

    what: CliPositionalArg[Literal["list", "explain", "retry"]] = Field("list", description="what to do")
    letter: CliPositionalArg[str] = Field(
        "", pattern=r"^(\d+:\d+)?$", description="of explain: the partition:offset it came from, as list shows it"
    )
    limit: int = Field(20, ge=1, description="of list: letters to show, the newest")
    reason: str = Field("", description="only letters whose reason contains this")
    since: str = Field("", pattern=r"^(\d+[smhd])?$", description="only letters of the last 90s, 30m, 2h or 7d")
    only: str = Field(
        "", pattern=r"^(\d+:\d+(,\d+:\d+)*)?$", description="only letters from these partition:offset[,...]"
    )
    map: str = Field("", description="of retry: the letters' own form, as event_fields; they are sent in event_fields'")
    map_time_unit: TimeUnit = Field("ms", description="of retry, with map: unit of the letters' timestamp")
    rekey: bool = Field(False, description="of retry: take the key from the user id in the value")
    dry_run: bool = Field(False, description="of retry: say what would be sent, and send nothing")

    @field_validator("map")
    @classmethod
    def _map_makes_a_mapping(cls, text: str) -> str:
        FieldMapping.parse(text)
        return text

    def run(self) -> int:
        """Do it.

        Raises:
            Refused: a topic is missing, or explain names no letter.
            KafkaException: the cluster cannot be reached, or another retry has begun meanwhile.
        """
        with admin(self, "dlq") as client:
            require(client, self.interactions, self.dead_letters)
        match self.what:
            case "list":
                self._list()
            case "explain":
                self._explain()
            case "retry":
                self._retry()
        return DONE

    def _list(self) -> None:
        found = read(self, _FIRST_BYTES)
        letters = self._chosen(found.letters)
        reasons = Counter(f"{letter.field}: {letter.rule}" for letter in letters)
        shown = letters[-self.limit :]
        lines = [_COLUMNS.format(*_HEADS), *(_row(letter, letter.identity in found.retried) for letter in shown), ""]
        lines += [f"{count:>7,}  {reason}" for reason, count in reasons.most_common()]
        sent_again = sum(letter.identity in found.retried for letter in letters)
        lines.append(f"{len(letters):>7,}  letters, {len(shown):,} of them shown, {sent_again:,} sent again")
        if found.foreign:
            lines.append(f"{found.foreign:>7,}  records that no worker wrote")
        none = f"none of {len(found.letters):,} dead letters" if found.letters else "no dead letters"
        self.report(
            "\n".join(lines) if letters or found.foreign else none,
            letters=[_told(letter, letter.identity in found.retried) for letter in shown],
            total=len(letters),
            retried=sent_again,
            reasons=dict(reasons),
            foreign=found.foreign,
        )

    def _explain(self) -> None:
        if not self.letter:
            raise Refused("letter: explain needs the partition:offset of a letter, as python -m ops dlq shows it")
        found = read(self, MAX_VALUE_BYTES + 1)
        letters = [letter for letter in found.letters if letter.origin == self.letter]
        if not letters:
            raise Refused(
                f"letter {self.letter}: topic {self.dead_letters} has none from there; python -m ops dlq lists"
            )
        letter = letters[-1]
        form = Form.of(self.event_fields, self.event_time_unit)
        try:
            mended = mend(letter, form, form)
            event = None if mended.value is None else form.codec.decode(mended.value, mended.key, letter.record_ms)
            now = f"can be sent again: {event or f'forget {mended.key.decode()}'}"
        except Malformed as malformed:
            now = f"still wrong: {malformed}"
        retried = letter.identity in found.retried
        advice = ADVICE.get(letter.field, "see docs/reference/contract.md")
        rows = {
            "origin": f"topic {letter.topic}, partition {letter.partition}, offset {letter.offset}",
            "kept": f"topic {self.dead_letters}, partition {letter.place[0]}, offset {letter.place[1]}",
            "when": _moment(letter.at_ms),
            "reason": letter.reason,
            "key": f"{letter.key_size} bytes: {letter.key!r}" if letter.key is not None else "none",
            "value": "null" if letter.value is None else f"{letter.size:,} bytes, {letter.stored:,} of them kept",
            "rule": f"{letter.field} {letter.rule}",
            "mend": advice,
            "now": "sent again already" if retried else now,
        }
        lines = [f"{name:<7} {text}" for name, text in rows.items()] + _dump((letter.value or b"")[:_EXPLAINED_BYTES])
        self.report("\n".join(lines), **_told(letter, retried), advice=advice, now=now, key_size=letter.key_size)

    def _retry(self) -> None:
        wanted = Form.of(self.event_fields, self.event_time_unit)
        own = bool(self.map) or self.map_time_unit != "ms"
        stands = Form.of(self.map, self.map_time_unit) if own else wanted
        producer = None if self.dry_run else _producer(self)
        found = read(self, MAX_VALUE_BYTES + 1)
        mended: list[Mended] = []
        left: list[tuple[Letter, str]] = []
        for letter in self._chosen(found.letters):
            if letter.identity in found.retried:
                left.append((letter, "sent again already"))
            elif letter.topic != self.interactions:
                left.append((letter, f"came from topic {letter.topic}, not {self.interactions}"))
            elif letter.field == "offset" and not self.only:
                left.append((letter, "a setting skips it: name it with --only"))
            else:
                try:
                    mended.append(mend(letter, stands, wanted, rekey=self.rekey))
                except Malformed as malformed:
                    left.append((letter, str(malformed)))
        forgotten = _forgotten(self, mended)
        left += [(one.letter, forgotten[one.letter]) for one in mended if one.letter in forgotten]
        mended = [one for one in mended if one.letter not in forgotten]
        if producer:
            send(self, producer, mended)
        lines = [f"{one.letter.origin:>12}  {'would be sent' if self.dry_run else 'sent'}" for one in mended[:_TOLD]]
        lines += [f"{letter.origin:>12}  left: {why}" for letter, why in left[:_TOLD]]
        more = max(0, len(mended) - _TOLD) + max(0, len(left) - _TOLD)
        lines += [f"{more:>12,}  more"] if more else []
        lines.append(f"{len(mended):,} letters {'would be ' if self.dry_run else ''}sent again, {len(left):,} left")
        self.report(
            "\n".join(lines),
            sent=0 if self.dry_run else len(mended),
            valid=[one.letter.origin for one in mended],
            left={letter.origin: why for letter, why in left},
        )

    def _chosen(self, letters: Iterable[Letter]) -> list[Letter]:
        only = set(self.only.split(",")) - {""}
        seconds = int(self.since[:-1]) * _SECONDS[self.since[-1]] if self.since else None
        since_ms = 0.0 if seconds is None else 1000 * (time.time() - seconds)
        return [
            letter
            for letter in letters
            if self.reason in letter.reason and letter.at_ms >= since_ms and (not only or letter.origin in only)
        ]


def send(settings: Settings, producer: Producer, mended: Sequence[Mended]) -> None:
    """Send events and the receipts of their letters, both or neither.

    Raises:
        KafkaException: not everything was sent; what has no receipt was not.
    """
    for at in range(0, len(mended), _TRANSACTION):
        producer.begin_transaction()
        try:
            for letter, key, value in mended[at : at + _TRANSACTION]:
                producer.produce(settings.interactions, key=key, value=value)
                receipt: dict[str, str | bytes | None] = {RETRIED: letter.identity}
                producer.produce(settings.dead_letters, value=None, partition=letter.place[0], headers=receipt)
            producer.commit_transaction(TIMEOUT_S)
        except BaseException:
            with suppress(KafkaException):
                producer.abort_transaction(TIMEOUT_S)
            raise


def _forgotten(settings: Settings, mended: Iterable[Mended]) -> dict[Letter, str]:
    """The letters of users who were forgotten since: sent again, they would be a history of somebody who has none."""
    letters = {
        Written(one.key, one.letter.partition, one.letter.offset, one.letter.record_ms): one.letter
        for one in mended
        if one.value is not None
    }
    return {
        letters[
            written
        ]: f"the user was forgotten since, at offset {tombstone.offset} of partition {tombstone.partition}"
        for written, tombstone in forgotten_since(settings, letters).items()
    }


def _producer(settings: Settings) -> Producer:
    """The one producer that may send letters again: an earlier one is finished, or gone, before it can begin."""
    producer = Producer(
        producer_config(settings)
        | {
            "transactional.id": f"{settings.app}-dlq",
            "transaction.timeout.ms": _TRANSACTION_MS,
            "message.timeout.ms": _TRANSACTION_MS,
        }
    )
    try:
        producer.init_transactions(TIMEOUT_S)
    except KafkaException as error:
        raise denied(error, f"WRITE transactional-id {settings.app}-dlq") from None
    return producer


def _row(letter: Letter, retried: bool) -> str:
    rule = letter.rule if len(letter.rule) <= 44 else f"{letter.rule[:43]}…"
    state = "sent" if retried else "cut" if letter.is_cut else "left"
    return _COLUMNS.format(
        _moment(letter.at_ms), letter.origin, letter.field, state, rule, _text((letter.value or b"")[:_FIRST_BYTES])
    ).rstrip()


def _told(letter: Letter, retried: bool) -> dict[str, Any]:
    return {
        "origin": letter.origin,
        "topic": letter.topic,
        "at_ms": letter.at_ms,
        "field": letter.field,
        "reason": letter.reason,
        "key": None if letter.key is None else _text(letter.key),
        "value": None if letter.value is None else _text(letter.value[:_EXPLAINED_BYTES]),
        "size": letter.size,
        "cut": letter.is_cut,
        "retried": retried,
    }


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _text(value: bytes) -> str:
    """Readable on one line, whatever it is."""
    return re.sub(r"[^\x20-\x7e]", ".", value.decode("latin-1"))


def _dump(value: bytes) -> list[str]:
    """Hexadecimal and text, 16 bytes a line."""
    rows = (value[at : at + 16] for at in range(0, len(value), 16))
    return [f"  {16 * number:06x}  {row.hex(' '):<47}  {_text(row)}" for number, row in enumerate(rows)]
