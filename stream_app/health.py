"""Whether a worker goes on, and whether it serves: asked by probes and scrapes, from any thread."""

import time
from collections.abc import Callable
from typing import Final

from stream_app.counters import Stage
from stream_app.engine import Engine
from stream_app.host import Host

_WAITS: Final = (Stage.SEND, Stage.CHECK)


class Health:
    """Looks at the event loop and the engine from outside.

    Args:
        host: of the event loop.
        engine: whose steps are watched.
        stuck_after_s: seconds without a step that are too many.
        clock: monotonic seconds.
    """

    def __init__(
        self, host: Host, engine: Engine, stuck_after_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._host = host
        self._engine = engine
        self._stuck_after_s = stuck_after_s
        self._clock = clock

    def stuck(self) -> list[str]:
        """Why a restart would help; empty while the worker goes on.

        A recovery goes on as long as it reads. What waits for brokers is not judged: a restart does not mend an outage,
        and each wait has a limit of its own.
        """
        now, found = self._clock(), []
        beat_at, busy_since, stage = self._host.beat_at, self._host.busy_since, self._engine.stopwatch.stage
        if beat_at is not None and now - beat_at > self._stuck_after_s:
            found.append(f"the event loop stands still for {now - beat_at:.0f} s")
        if busy_since is not None and stage not in _WAITS:
            still_s = now - max(busy_since, self._engine.progressed_at)
            if still_s > self._stuck_after_s:
                found.append(f"the engine stands still for {still_s:.0f} s" + (f", at {stage}" if stage else ""))
        return found

    def waits_for(self) -> list[str]:
        """What is missing before every event of this worker's partitions is answered; empty while none is.

        A worker without a model reads events and keeps histories, but sends no lists: it is not ready.
        """
        found = self.stuck()
        owned = self._host.owned
        if owned is None:
            found.append("waiting for the group to assign partitions")
        elif recovering := sorted(set(owned) - set(self._engine.partitions)):
            found.append(f"recovering partitions {recovering}")
        if self._engine.model_version is None:
            found.append("waiting for a model, histories are kept")
        return found
