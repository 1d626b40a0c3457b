"""The worker's settings."""

import socket
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.settings import Command


class WorkerSettings(Command):
    """Read events, keep one recurrent state per user, send a fresh list for every event."""

    worker_id: str = Field(
        default_factory=socket.gethostname,
        pattern=r"^[a-zA-Z0-9._-]{1,128}$",
        description="names this worker among all of its app; keeps its partitions over a restart",
    )
    data_dir: Path = Field(Path("data"), description="directory of the users' states, one folder per worker id inside")
    processes: int = Field(1, ge=1, le=256, description="workers to run and restart; more than one get numbered ids")
    threads: int = Field(2, ge=1, le=64, description="threads that fold and rank the users of a large round")
    cache_mib: int = Field(
        256,
        ge=1,
        le=1 << 20,
        description="MiB of users' records kept in memory, for all partitions of a process",
    )
    history_length: int = Field(
        100, ge=2, le=10_000, description="events W that a history keeps at least once it is full (at most 3/2 W), even"
    )
    list_length: int = Field(10, ge=1, le=1000, description="items in a list")
    list_format: Literal["msgpack", "json"] = Field("msgpack", description="encoding of lists")
    emit: Literal["every", "latest"] = Field(
        "every", description="every: a list per event; latest: one per user and round, for catching up"
    )
    round_records: int = Field(5_000, ge=1, le=100_000, description="records that one round takes at most, roughly")
    rebase_steps: int = Field(
        20_000,
        ge=1,
        description="model steps that one slice of the background spends on states of previous models at most, and one "
        "round on those whose users it will not come to; bounds its pause",
    )
    rebase_window_days: float = Field(
        7.0,
        ge=0,
        le=36_500,
        description="days; users whose last event is no older get a list of a new model in the background, "
        "0: none do, and the previous model stays in memory until the next one",
    )
    on_lost_events: Literal["stop", "continue"] = Field(
        "stop", description="what to do when the log begins after the committed offset: events expired unread"
    )
    session_timeout_s: float = Field(30.0, ge=6, description="seconds after which a silent worker loses its partitions")
    commit_interval_s: float = Field(1.0, gt=0, description="seconds between commits of the input position")
    idle_check_s: float = Field(5.0, gt=0, description="seconds between looks at the changelog ends of idle partitions")
    skip_records: str = Field(
        "", pattern=r"^(\d+:\d+(,\d+:\d+)*)?$", description="partition:offset[,...] to dead-letter unread"
    )
    web_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="port of /metrics, /live and /ready, 0 for none; several workers take it and the next ones",
    )
    web_host: str = Field("127.0.0.1", min_length=1, description="address of that port; 0.0.0.0 or :: for all")
    stuck_after_s: float = Field(
        60.0,
        ge=2,
        description="seconds without a step of the event loop or the engine after which /live fails; "
        "waiting for brokers to take what was sent is no standstill: it ends the worker after 300 s",
    )

    @model_validator(mode="after")
    def _history_length_is_even(self) -> Self:
        if self.history_length % 2:
            raise ValueError(f"history_length must be even, got {self.history_length}")
        return self
