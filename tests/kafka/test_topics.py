"""Topics on a real broker."""

import json

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource

from ops.kafka import LocalKafka
from ops.topics import Topics, admin, create, require
from schemas.settings import Refused, Settings
from schemas.topics import topics


@pytest.fixture
def client(kafka: LocalKafka):
    with admin(kafka.bootstrap) as client:
        yield client


def test_every_topic_is_made_as_specified(settings: Settings, client: KafkaAdminClient):
    create(client, topics(settings))
    for topic in topics(settings):
        [described] = client.describe_topics([topic.name])
        config = client.describe_configs([ConfigResource("TOPIC", topic.name, list(topic.config))])["topic"][topic.name]
        assert len(described["partitions"]) == topic.partitions
        assert {name: entry["value"] for name, entry in config.items()} == topic.config


def test_the_command_says_as_json_what_it_made(settings: Settings, capsys: pytest.CaptureFixture[str]):
    for made in ([topic.name for topic in topics(settings)], []):
        Topics.model_construct(**settings.model_dump(), as_json=True).run()
        assert json.loads(capsys.readouterr().out)["created"] == made


def test_a_second_time_nothing_is_made(created: Settings, client: KafkaAdminClient):
    assert create(client, topics(created)) == []


def test_only_what_is_missing_is_made(created: Settings, client: KafkaAdminClient):
    extra = topics(created.model_copy(update={"app": created.app + "-second"}))
    assert [topic.name for topic in create(client, extra)] == [created.app + "-second-users-changelog"]


def test_a_wrong_partition_count_is_refused_with_both_values(created: Settings, client: KafkaAdminClient):
    more = topics(created.model_copy(update={"partitions": created.partitions + 1}))
    with pytest.raises(Refused, match=f"topic {created.interactions} has 4 partitions, must have 5"):
        create(client, more)


def test_a_wrong_policy_is_refused_with_both_values(created: Settings, client: KafkaAdminClient):
    changelog = topics(created)[3]
    wrong = changelog._replace(config={"cleanup.policy": "compact,delete"})
    with pytest.raises(Refused, match=f"{changelog.name} has cleanup.policy compact, must have compact,delete"):
        create(client, [wrong])


def test_the_order_of_policies_means_nothing(created: Settings, client: KafkaAdminClient):
    lists = topics(created)[1]
    assert create(client, [lists._replace(config={"cleanup.policy": "delete,compact"})]) == []


def test_nothing_is_made_beside_a_wrong_topic(created: Settings, client: KafkaAdminClient):
    wrong = topics(created)[0]._replace(partitions=9)
    new = wrong._replace(name=created.app + "-new")
    with pytest.raises(Refused):
        create(client, [wrong, new])
    assert new.name not in client.list_topics()


def test_what_the_broker_refuses_is_told_with_its_reason(settings: Settings, client: KafkaAdminClient):
    with pytest.raises(Refused, match=r"interactions: Unable to replicate .* only 1 broker"):
        create(client, topics(settings), replication=3)


def test_a_missing_topic_is_refused_with_the_command_that_makes_it(settings: Settings, client: KafkaAdminClient):
    with pytest.raises(Refused, match=f"{settings.interactions} does not exist.*python -m ops topics"):
        require(client, settings.interactions)
