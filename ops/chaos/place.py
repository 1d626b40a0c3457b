"""Where a run happens: a directory, and a broker of its own or topics of its own on the operator's."""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from ops.kafka import LocalKafka
from ops.topics import admin
from schemas.cluster import Cluster
from schemas.settings import Settings
from schemas.topics import topics

_PARTITIONS: Final = 4
_START_S: Final = 300.0
"""a killed broker may have much to read when it comes back"""
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


class Place(NamedTuple):
    """What a run needs."""

    settings: Settings
    directory: Path
    kafka: LocalKafka | None


@contextmanager
def place(settings: Settings, *, local: bool, directory: Path | None) -> Iterator[Place]:
    """A place for a run. What it made goes at the end, unless it fails or a directory was named.

    Args:
        settings: name the operator's broker.
        local: a broker of its own instead.
        directory: for data and logs.
    """
    for number in _ENDING:
        signal.signal(number, _interrupt)
    at = directory or Path(tempfile.mkdtemp(prefix="recommender-chaos-"))
    at.mkdir(parents=True, exist_ok=True)
    failed = True
    try:
        with LocalKafka(at / "kafka", start_timeout_s=_START_S) if local else nullcontext() as kafka:
            own = topic_settings(Settings.model_construct(broker=kafka.bootstrap) if kafka else settings, at)
            try:
                yield Place(own.model_copy(update={"replication": settings.replication}), at, kafka)
            finally:
                if kafka is None:
                    with admin(own) as client:
                        client.delete_topics([topic.name for topic in topics(own)])
        failed = False
    finally:
        if failed:
            print(f"data and logs are in {at}", file=sys.stderr)
        elif directory is None:
            shutil.rmtree(at, ignore_errors=True)


def topic_settings(cluster: Cluster, directory: Path) -> Settings:
    """Settings with topics that nobody else uses, on this cluster.

    Nothing else comes from the environment or a .env file: these are about a service that is not to be broken.
    """
    app = f"chaos-{time.time_ns() // 1_000_000}"
    return Settings.model_construct(
        **{name: getattr(cluster, name) for name in Cluster.model_fields},
        app=app,
        partitions=_PARTITIONS,
        interactions=f"{app}-interactions",
        recommendations=f"{app}-recommendations",
        dead_letters=f"{app}-interactions.dlq",
        models=f"{app}-models",
        items=f"{app}-items",
        artefact_store=str(directory / "artefacts"),
    )


def _interrupt(*_: object) -> NoReturn:
    """End the run, once: a second Ctrl-C must not keep it from ending what it started."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
