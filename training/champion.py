"""Announcing a model to the workers: the topic `models`, where the last record of a role counts."""

from confluent_kafka import KafkaException, Producer

from schemas.artefact import CHAMPION, Manifest, encode_manifest
from schemas.kafka import TIMEOUT_S, producer_config
from schemas.settings import Settings


def publish(settings: Settings, manifest: Manifest) -> None:
    """Make this model the champion and wait for the broker's acknowledgement.

    Raises:
        KafkaException: the broker did not take it.
        TimeoutError: no answer for 30 s.
    """
    failures: list[KafkaException] = []
    producer = Producer(producer_config(settings))
    producer.produce(
        settings.models,
        key=CHAMPION,
        value=encode_manifest(manifest),
        on_delivery=lambda error, _: failures.append(KafkaException(error)) if error else None,
    )
    if producer.flush(TIMEOUT_S):
        raise TimeoutError(f"the broker did not acknowledge model {manifest.version} within {TIMEOUT_S:g} s")
    if failures:
        raise failures[0]
