"""Announcing a model to the workers: the topic `models`, where the last record of a role counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.admission import admit
from schemas.artefact import CHAMPION, Manifest, decode_manifest, encode_manifest
from schemas.artefact_store import Announcement, ArtefactStore
from schemas.kafka import TIMEOUT_S, describe_topics, end_offsets, producer_config, read_topic
from schemas.malformed import Malformed
from schemas.settings import Refused, Settings

ANSWER_S: Final = 5.0
"""a broker that does not answer within this is away"""

SETTINGS: Final = "settings"
"""parameter of a manifest: a digest of the settings that it was trained with"""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Announced:
    """A record of the topic `models`."""

    manifest: Manifest
    at_ms: int
    """UTC milliseconds, when the broker took it"""


def publish(settings: Settings, manifest: Manifest) -> int:
    """Make this model the champion and wait for the broker's acknowledgement; the time of it in UTC milliseconds.

    Raises:
        KafkaException: the broker did not take it.
        TimeoutError: no answer for 30 s.
    """
    failures: list[KafkaException] = []
    taken_ms: list[int] = []
    producer = Producer(producer_config(settings))
    producer.produce(
        settings.models,
        key=CHAMPION,
        value=encode_manifest(manifest),
        on_delivery=lambda error, message: (
            failures.append(KafkaException(error)) if error else taken_ms.append(message.timestamp()[1])
        ),
    )
    if producer.flush(TIMEOUT_S):
        raise TimeoutError(f"the broker did not acknowledge model {manifest.version} within {TIMEOUT_S:g} s")
    if failures:
        raise failures[0]
    return taken_ms[0]


def announce(settings: Settings, store: ArtefactStore, manifest: Manifest, by: str) -> None:
    """Make this model the champion, and note that in the store, where compaction does not reach.

    Raises:
        KafkaException: the broker did not take it.
        TimeoutError: no answer for 30 s.
    """
    at_ms = publish(settings, manifest)
    _log.info("published", version=manifest.version, topic=settings.models)
    try:
        store.note(Announcement(version=manifest.version, at_ms=at_ms, by=by))
    except OSError as error:
        # the workers have it: what is missing is a line of the history
        _log.warning("the announcement is not in the history", version=manifest.version, error=str(error))


def require_topic(settings: Settings) -> None:
    """See that there is a topic to announce on, and that we may.

    Raises:
        Refused: there is none, or the cluster does not let us.
        KafkaException: the cluster cannot be reached.
    """
    admit(settings, "promote")
    try:
        describe_topics(settings, [settings.models])
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        raise Refused(f"topic {settings.models} does not exist: create it with python -m ops topics") from None


def announced(settings: Settings) -> list[Announced]:
    """The champions that the topic `models` still holds, oldest first; none if there is no such topic.

    Raises:
        Refused: the cluster does not let us.
        KafkaException: the cluster cannot be reached.
        TimeoutError: the topic stopped giving records.
    """
    if settings.models not in admit(settings, "promote", ANSWER_S).topics:
        return []
    found: list[Announced] = []
    for _, messages in read_topic(settings, settings.models, end_offsets(settings, settings.models)):
        for message in messages:
            value = message.value()
            if message.key() != CHAMPION.encode() or value is None:
                continue
            try:
                found.append(Announced(decode_manifest(value), message.timestamp()[1]))
            except Malformed as error:
                _log.warning("a record of the topic is no manifest", offset=message.offset(), error=str(error))
    return found


def announced_before(settings: Settings, store: ArtefactStore, digest: str, offsets: Mapping[str, int]) -> int | None:
    """The version of a model that was announced once and trained with these settings up to these offsets, if any.

    Raises:
        KafkaException: the cluster cannot be reached.
        OSError: the store cannot be reached.
    """
    contents, on_topic = store.contents(), [one.manifest for one in announced(settings)]
    noted = {one.version for one in contents.announcements}
    for manifest in [*on_topic, *(manifest for manifest in contents.manifests if manifest.version in noted)]:
        if manifest.parameters.get(SETTINGS) == digest and manifest.offsets == offsets:
            return manifest.version
    return None
