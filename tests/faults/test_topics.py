"""Topics and offsets lost, cut, recreated and changed under an app: nothing is lost, or a worker refuses to start.

Each refusal names a command. It is run as it stands there, a worker starts, and the audit of the topics is clean.
"""

import signal
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from kafka import OffsetAndMetadata
from kafka import TopicPartition as Partition

from ops.reset import forget_offsets
from ops.topics import admin, create
from schemas.kafka import TIMEOUT_S, client_config, end_offsets, producer_config
from schemas.settings import REFUSED, Settings
from schemas.state import CHANGELOG_IDENTITY
from schemas.topics import topics
from tests.faults.world import EVENTS, World
from tests.kafka.balance import committed, is_caught_up, read_topic, repeated_lists
from tests.kafka.stream import send_events
from tests.kafka.worker_process import WorkerProcess, wait_until


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> World:
    """After some events, and with a group that has no members."""
    made = World(settings, tmp_path)
    made.work()
    made.part()
    return made


def recreate(settings: Settings, topic: str) -> None:
    """Delete a topic, and make it again empty."""
    with admin(settings) as client:
        client.delete_topics([topic])
        wait_until(lambda: topic not in client.list_topics(), "the topic is gone")
        create(client, topics(settings))


def truncate(settings: Settings, topic: str) -> None:
    """Remove all that a topic has."""
    wanted = [TopicPartition(topic, partition, end) for partition, end in end_offsets(settings, topic).items()]
    client = AdminClient(client_config(settings))  # its answers come only while it lives
    for removed in client.delete_records(wanted).values():
        removed.result(TIMEOUT_S)


def set_policy(settings: Settings, policy: str) -> None:
    """Change the changelog's clean-up."""
    entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, settings.changelog, incremental_configs=[entry])
    client = AdminClient(client_config(settings))
    for answer in client.incremental_alter_configs([resource]).values():
        answer.result(TIMEOUT_S)


def test_lost_offsets_make_the_log_come_again_and_count_nothing_twice_also_on_another_disk(world: World) -> None:
    forget_offsets(world.settings)
    world.work()
    assert repeated_lists(world.settings) == 0  # the store knows how far it is
    world.part()
    forget_offsets(world.settings)
    world.lose_stores()
    world.work()
    assert repeated_lists(world.settings) > 0
    assert world.audit().clean


def test_events_that_expired_while_the_offsets_did_are_told_from_what_the_store_has(world: World) -> None:
    lost = 60
    send_events(world.settings, lost)
    forget_offsets(world.settings)
    truncate(world.settings, world.settings.interactions)
    refusal = world.refusal()
    assert "the store's position is" in refusal
    assert "--on-lost-events continue" in refusal
    send_events(world.settings, 10)
    with WorkerProcess(world.settings, world.directory, data_dir=world.data_dir, on_lost_events="continue") as worker:
        wait_until(lambda: is_caught_up(world.settings), "everything committed")
        assert worker.stop() == 0
        assert worker.wait_for("stopped")["lost"] == lost
    with WorkerProcess(world.settings, world.directory, data_dir=world.data_dir) as worker:
        worker.wait_for("owns partitions")


def test_events_that_expire_before_a_worker_that_is_behind_are_not_passed_over(world: World) -> None:
    with world.working(session_timeout_s=60) as worker:
        worker.send(signal.SIGSTOP)
        send_events(world.settings, 20)  # a fetch that waits at the broker may still get these
        send_events(world.settings, 60)
        truncate(world.settings, world.settings.interactions)
        send_events(world.settings, 20)
        worker.send(signal.SIGCONT)
        assert worker.wait() == REFUSED
        assert "the position is" in worker.output.splitlines()[-1]
        assert "--on-lost-events continue" in worker.output.splitlines()[-1]


def test_offsets_beyond_the_end_of_what_the_cluster_kept_are_refused(world: World) -> None:
    # as an unclean election leaves it: the topic is the same, but shorter than the worker has seen it
    at = committed(world.settings)
    with admin(world.settings) as client:
        topic = world.settings.interactions
        beyond = {Partition(topic, p): OffsetAndMetadata(offset + 5, "", -1) for p, offset in at.items()}
        client.alter_group_offsets(world.settings.app, beyond)
    refusal = world.refusal()
    assert any(f"events before offset {end + 5} are done but the log ends at {end}" in refusal for end in at.values())
    world.obey(refusal)
    world.work()
    assert world.audit().clean


def test_a_changelog_that_was_made_anew_is_refused_until_the_log_is_processed_again(world: World) -> None:
    recreate(world.settings, world.settings.changelog)
    refusal = world.refusal()
    assert "the changelog has nothing in partitions [0, 1]" in refusal
    world.obey(refusal)
    world.work()
    assert world.audit().clean
    assert world.audit().events == 2 * EVENTS


def test_a_changelog_that_was_made_anew_may_be_gone_on_with_without_the_states(world: World) -> None:
    recreate(world.settings, world.settings.changelog)
    world.lose_stores()
    assert "--on-lost-events continue" in world.refusal()
    world.work(on_lost_events="continue")
    audit = world.audit()
    assert (audit.lost, audit.applied_twice, audit.uncovered) == (EVENTS, 0, 0)


def test_a_changelog_with_records_of_unknown_topics_is_refused(world: World) -> None:
    kept = [(m.key(), m.value(), m.partition()) for m in read_topic(world.settings, world.settings.changelog)]
    recreate(world.settings, world.settings.changelog)
    producer = Producer(producer_config(world.settings))
    for key, value, partition in kept:
        if key != CHANGELOG_IDENTITY:
            producer.produce(world.settings.changelog, key=key, value=value, partition=partition)
    assert producer.flush(TIMEOUT_S) == 0
    world.lose_stores()
    for _ in range(2):  # what the first start has read is not trusted by the second
        refusal = world.refusal()
        assert "none of them says to which topics it belongs" in refusal
    world.obey(refusal)
    world.work()
    assert world.audit().clean


def test_a_changelog_that_lost_its_beginning_is_refused_once_it_is_needed(world: World) -> None:
    set_policy(world.settings, "delete")  # else the broker refuses: nothing but that wrong policy removes a beginning
    truncate(world.settings, world.settings.changelog)
    set_policy(world.settings, "compact")
    world.work()  # the store has it all
    world.lose_stores()
    refusal = world.refusal()
    assert "starts at offset" in refusal
    world.obey(refusal)
    world.work()
    assert world.audit().clean


def test_a_topic_of_events_that_was_made_anew_is_refused(world: World) -> None:
    recreate(world.settings, world.settings.interactions)
    send_events(world.settings, EVENTS)
    assert f"{world.stores / '0'} belongs to" in world.refusal()
    world.lose_stores()
    refusal = world.refusal()
    assert "changelog partition" in refusal
    world.obey(refusal)
    world.work()
    assert world.audit().clean
    assert world.audit().events == 2 * EVENTS


def test_a_topic_of_events_that_got_more_partitions_is_refused_and_another_app_begins_anew(world: World) -> None:
    settings = world.settings
    client = AdminClient(client_config(settings))
    for answer in client.create_partitions([NewPartitions(settings.interactions, 3)]).values():
        answer.result(TIMEOUT_S)
    refusal = world.refusal()
    assert f"topic {settings.interactions} has 3 partitions, the setting says 2: set partitions to that" in refusal
    anew = {name: f"{getattr(settings, name)}-3" for name in ("app", "recommendations", "dead_letters")}
    world.settings = settings.model_copy(update={"partitions": 3, **anew})
    world.obey(refusal)
    world.work()
    assert world.audit().clean
    strays = read_topic(world.settings, world.settings.dead_letters)
    assert len(strays) + world.audit().events == 2 * EVENTS  # `python -m ops dlq` sends them to where they belong now
