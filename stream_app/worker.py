"""One worker, wired together."""

import gc
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from schemas import logs
from schemas.artefact_store import ArtefactStore
from stream_app.availability import Availability
from stream_app.champion import Champion
from stream_app.engine import Engine
from stream_app.follower import Follower
from stream_app.host import Host
from stream_app.kafka_broker import KafkaBroker
from stream_app.settings import WorkerSettings
from stream_app.topic_check import await_topics

_SWITCH_INTERVAL_S: Final = 0.0005
"""how long a thread that comes back from native code waits for the interpreter at most: about a model step"""
_log = structlog.get_logger()


def run_worker(settings: WorkerSettings, faust_options: Sequence[str] = ()) -> int:
    """Run one worker in this process until a signal or a failure, and return the exit status.

    Raises:
        Refused: the topics or the stores are not what the settings say.
    """
    logs.configure(settings.log_level, worker=settings.worker_id)
    await_topics(settings)
    _log.info("started", app=settings.app, broker=settings.broker)
    host = Host(settings)
    engine = Engine(settings, KafkaBroker(settings), host.confirm)
    champion = Champion(ArtefactStore(settings.artefact_store), engine.swap)
    availability = Availability(engine.set_unavailable)
    _collect_garbage_rarely()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with (
        Follower(settings, settings.items, availability, host.fail),
        Follower(settings, settings.models, champion, host.fail),
    ):
        return host.run(engine, faust_options)


def _collect_garbage_rarely() -> None:
    """A round makes some 100,000 objects without a cycle; looking for cycles among them costs a fifth of its time."""
    gc.freeze()
    gc.set_threshold(500_000, 20, 20)
