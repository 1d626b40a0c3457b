"""Creating the topics, and checking those that exist."""

from collections.abc import Iterable
from typing import Any, Final

from confluent_kafka import KafkaException
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource
from kafka.errors import KafkaTimeoutError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from schemas.admission import admit, reach
from schemas.kafka import python_client_config
from schemas.report import Report
from schemas.settings import DONE, Refused, Settings
from schemas.topics import Topic, topics

_TIMEOUT_S: Final = 10.0
_POLICY: Final = "cleanup.policy"


class Unreachable(Exception):
    """No broker answered; the message is one line that names the address."""


def admin(cluster: Settings | str, process: str = "") -> KafkaAdminClient:
    """An administration client, connected; a context manager.

    Args:
        cluster: the settings, or just the address of a broker that lets everyone do everything.
        process: see first that the cluster lets us do all that this process must; see `schemas.access`.

    Raises:
        Refused: it does not let us in, or do all that.
        Unreachable: no broker answered within 10 s.
    """
    settings = Settings.model_construct(broker=cluster) if isinstance(cluster, str) else cluster
    try:
        admit(settings, process, _TIMEOUT_S) if process else reach(settings, _TIMEOUT_S)
        return KafkaAdminClient(**python_client_config(settings), bootstrap_timeout_ms=1000 * _TIMEOUT_S)
    except KafkaException as error:
        raise Unreachable(f"{error.args[0].str()}, within {_TIMEOUT_S:g} s") from None
    except KafkaTimeoutError:
        raise Unreachable(f"no Kafka answers at {settings.broker} within {_TIMEOUT_S:g} s") from None


def create(client: KafkaAdminClient, wanted: Iterable[Topic], replication: int = 1) -> list[Topic]:
    """Create the topics that do not exist, check the others, and return the new ones.

    A topic that is wrong stays as it is: to repartition it would part users from their states.

    Raises:
        Refused: an existing topic has another partition count or cleanup policy, or the broker refused to make one.
    """
    wanted = list(wanted)
    missing = check(client, wanted)
    if missing:
        requests = {
            topic.name: {"num_partitions": topic.partitions, "replication_factor": replication, "configs": topic.config}
            for topic in missing
        }
        answers = client.create_topics(requests, raise_errors=False)["topics"]
        # a topic that someone else made meanwhile is checked like any other
        refused = [a for a in answers if a["error_code"] not in (0, TopicAlreadyExistsError.errno)]
        if refused:
            raise Refused("; ".join(f"topic {a['name']}: {a['error_message']}" for a in refused))
        client.wait_for_topics([topic.name for topic in missing])
        check(client, missing)
    return missing


def check(client: KafkaAdminClient, wanted: Iterable[Topic]) -> list[Topic]:
    """Check the topics that exist and return those that do not.

    Raises:
        Refused: an existing topic has another partition count or cleanup policy; every one is named.
    """
    wanted = list(wanted)
    partitions = _partitions(client, wanted)
    existing = [topic for topic in wanted if topic.name in partitions]
    policies = _policies(client, existing)
    wrong = []
    for topic in existing:
        count, policy = partitions[topic.name], policies[topic.name]
        if count != topic.partitions:
            wrong.append(f"topic {topic.name} has {count} partitions, must have {topic.partitions}")
        if set(policy.split(",")) != set(topic.config[_POLICY].split(",")):
            wrong.append(f"topic {topic.name} has {_POLICY} {policy}, must have {topic.config[_POLICY]}")
    if wrong:
        raise Refused("; ".join(wrong))
    return [topic for topic in wanted if topic.name not in partitions]


def require(client: KafkaAdminClient, *names: str) -> None:
    """Refuse to go on without these topics.

    Raises:
        Refused: one does not exist.
    """
    known = set(client.list_topics())
    for name in names:
        if name not in known:
            raise Refused(f"topic {name} does not exist: create it with python -m ops topics")


def _partitions(client: KafkaAdminClient, wanted: list[Topic]) -> dict[str, int]:
    described: list[dict[str, Any]] = client.describe_topics([topic.name for topic in wanted])
    missing = UnknownTopicOrPartitionError.errno
    return {topic["name"]: len(topic["partitions"]) for topic in described if topic["error_code"] != missing}


def _policies(client: KafkaAdminClient, wanted: list[Topic]) -> dict[str, str]:
    if not wanted:
        return {}
    resources = [ConfigResource("TOPIC", topic.name, [_POLICY]) for topic in wanted]
    described = client.describe_configs(resources, config_filter="all")["topic"]
    return {name: config[_POLICY]["value"] for name, config in described.items()}


class Topics(Report):
    """create the topics and check those that exist"""

    def run(self) -> int:
        """Create and check; one line per topic."""
        wanted = topics(self)
        with admin(self, "topics") as client:
            created = create(client, wanted, self.replication)
        width = max(len(topic.name) for topic in wanted)
        self.report(
            "\n".join(
                f"{topic.name:<{width}}  {topic.partitions:>3} partitions  {topic.config[_POLICY]:<14}  "
                f"{'created' if topic in created else 'exists'}"
                for topic in wanted
            ),
            created=[topic.name for topic in created],
            topics=[topic.name for topic in wanted],
        )
        return DONE
