"""Getting into the cluster: who is not let in, or may not do what it must, is told so at once and in one line.

Kafka's clients go on trying when they are refused, as in an outage. But this is none: only another setting or another
grant helps.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from schemas.access import Access, access
from schemas.kafka import TIMEOUT_S, client_config
from schemas.settings import Refused, Settings

_ATTEMPT_S: Final = 0.25
_DENIED: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}


class _Client(AdminClient):
    """An administration client that keeps what the library tells it besides."""

    def __init__(self, settings: Settings) -> None:
        self.told: list[KafkaError] = []
        super().__init__(client_config(settings) | {"error_cb": self.told.append, "log_level": 0})


def reach(settings: Settings, timeout_s: float) -> ClusterMetadata:
    """What the cluster says of itself.

    Raises:
        Refused: it does not let us in, or is not what the settings take it for.
        KafkaException: no broker answered; the message says what was tried last.
    """
    return _reach(_Client(settings), settings, timeout_s)


def admit(settings: Settings, process: str, timeout_s: float = TIMEOUT_S) -> ClusterMetadata:
    """See that the cluster lets us in, and lets us do all that `process` must do, see `schemas.access`.

    What does not exist is passed over, and so is what a broker does not tell.

    Raises:
        Refused: it does not; the message names all that is missing.
        KafkaException: no broker answered.
    """
    client = _Client(settings)
    metadata = _reach(client, settings, timeout_s)
    if missing := list(_missing(client, access(settings, process))):
        who = f"{settings.sasl_username} has" if settings.has_password else "there is"
        raise Refused(f"{who} no right to {'; '.join(missing)}: see python -m ops acls --process {process}")
    return metadata


def denied(error: KafkaException, asked: str) -> Exception:
    """The error itself, or if it is about rights a refusal that names what was `asked` for."""
    return Refused(f"there is no right to {asked}") if error.args[0].code() in _DENIED else error


def _reach(client: _Client, settings: Settings, timeout_s: float) -> ClusterMetadata:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return client.list_topics(timeout=_ATTEMPT_S)
        except KafkaException:
            client.poll(0)  # hands over what was told
            for error in client.told:
                _refuse(settings, error)
            if time.monotonic() > deadline:
                tried = next((one.str() for one in client.told if one.code() != KafkaError._ALL_BROKERS_DOWN), "")
                told = f"no Kafka answers at {settings.broker} with security_protocol {settings.security_protocol}"
                raise KafkaException(KafkaError(KafkaError._TRANSPORT, f"{told}: {tried or 'it hung up'}")) from None


def _refuse(settings: Settings, told: KafkaError) -> None:
    """Raise what only another setting can mend."""
    reason = told.str().partition("/bootstrap: ")[2] or told.str()
    if told.code() == KafkaError._AUTHENTICATION:
        names = f"sasl_username {settings.sasl_username}, sasl_password or sasl_mechanism {settings.sasl_mechanism}"
    elif told.code() == KafkaError._SSL:
        names = f"ssl_ca_file {settings.ssl_ca_file or '(empty)'} or the host in broker {settings.broker}"
    elif "SSL alert" in reason:  # the other side hung up on what it was shown
        names = f"ssl_certificate_file {settings.ssl_certificate_file or '(empty)'}"
    else:
        return
    raise Refused(f"the cluster does not let us in, {names} is wrong: {reason}")


def _missing(client: AdminClient, needed: Iterable[Access]) -> Iterator[str]:
    """What is not allowed, in words."""
    needed = list(needed)
    groups = [one.name for one in needed if one.resource == "group"]
    topics = TopicCollection([one.name for one in needed if one.resource == "topic"])
    asking: dict[str, Any] = {"include_authorized_operations": True, "request_timeout": TIMEOUT_S}
    told: dict[str, Mapping[str, Future[Any]]] = {"topic": client.describe_topics(topics, **asking)}
    if groups:
        told["group"] = client.describe_consumer_groups(groups, **asking)
    for resource, name, operations in needed:
        if resource in told and (lacking := set(operations) - _allowed(told[resource][name], operations)):
            yield f"{' and '.join(sorted(lacking))} {resource} {name}"


def _allowed(answer: Future[Any], asked: Iterable[str]) -> set[str]:
    """Names of the operations that we may do on it."""
    try:
        operations = answer.result().authorized_operations
    except KafkaException as error:
        if error.args[0].code() in _DENIED:
            return set()
        return set(asked)  # it does not exist, which is another's to tell
    return set(asked) if operations is None else {operation.name for operation in operations}
