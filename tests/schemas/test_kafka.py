from confluent_kafka import Consumer, Producer

from schemas.kafka import client_config, consumer_config, producer_config
from schemas.settings import Settings

SETTINGS = Settings(broker="localhost:1", app="shop")
QUIET = {"log_level": 0}


def test_every_client_reaches_the_settings_broker():
    for config in (client_config, producer_config, consumer_config):
        assert config(SETTINGS)["bootstrap.servers"] == "localhost:1"


def test_users_are_placed_by_murmur2_like_kafkas_own_clients_do():
    assert producer_config(SETTINGS)["partitioner"] == "murmur2_random"


def test_records_are_neither_lost_repeated_nor_reordered():
    config = producer_config(SETTINGS)
    assert (config["acks"], config["enable.idempotence"]) == ("all", True)


def test_readers_see_committed_records_only():
    assert consumer_config(SETTINGS)["isolation.level"] == "read_committed"


def test_readers_commit_nothing_and_make_no_topics():
    config = consumer_config(SETTINGS)
    names = ("enable.auto.commit", "enable.auto.offset.store", "allow.auto.create.topics")
    assert [config[name] for name in names] == [False] * 3


def test_readers_fail_outside_the_log_instead_of_jumping():
    assert consumer_config(SETTINGS)["auto.offset.reset"] == "error"


def test_librdkafka_knows_every_setting():
    Producer(producer_config(SETTINGS) | QUIET)
    Consumer(consumer_config(SETTINGS) | QUIET).close()
