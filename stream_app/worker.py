"""One worker, wired together."""

import gc
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import structlog
from prometheus_client import REGISTRY

from schemas import logs
from schemas.artefact_store import ArtefactStore
from stream_app.availability import Availability
from stream_app.champion import Champion
from stream_app.engine import Engine, store_directory
from stream_app.follower import Follower
from stream_app.health import Health
from stream_app.host import Host
from stream_app.kafka_broker import KafkaBroker
from stream_app.metrics import WorkerMetrics
from stream_app.settings import WorkerSettings
from stream_app.topic_check import await_topics
from stream_app.web import application, serve

_SWITCH_INTERVAL_S: Final = 0.0005
"""how long a thread that comes back from native code waits for the interpreter at most: about a model step"""
_log = structlog.get_logger()


def run_worker(settings: WorkerSettings, faust_options: Sequence[str] = ()) -> int:
    """Run one worker in this process until a signal or a failure, and return the exit status.

    Raises:
        Refused: the topics or the stores are not what the settings say.
    """
    host = Host(settings)
    engine = Engine(settings, KafkaBroker(settings), host.confirm)
    logs.configure(settings.log_level, worker=settings.worker_id, serving=lambda: engine.model_version)
    champion = Champion(ArtefactStore(settings.artefact_store), engine.swap)
    availability = Availability(engine.set_unavailable)
    with _web(settings, host, engine, champion):
        await_topics(settings)
        _log.info("started", app=settings.app, broker=settings.broker)
        tune_interpreter()
        with (
            Follower(settings, settings.items, availability, host.fail),
            Follower(settings, settings.models, champion, host.fail),
        ):
            return host.run(engine, faust_options)


def tune_interpreter() -> None:
    """Look for garbage rarely and let threads in soon, in this process from now on.

    A round makes some 100,000 objects without a cycle; looking for cycles among them costs a fifth of its time.
    """
    gc.freeze()
    gc.set_threshold(500_000, 20, 20)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def _web(
    settings: WorkerSettings, host: Host, engine: Engine, champion: Champion
) -> AbstractContextManager[int | None]:
    if not settings.web_port:
        return nullcontext()
    health = Health(host, engine, settings.stuck_after_s)
    REGISTRY.register(WorkerMetrics(host, engine, champion, health, store_directory(settings)))
    return serve(application(health, REGISTRY), settings.web_host, settings.web_port)
