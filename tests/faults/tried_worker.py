"""A worker as it is, on bad ground: what it sends takes long, and its wall clock jumps by days.

So a signal mostly finds it in the middle of a round.
"""

import random
import sys
import time
from collections.abc import Mapping

_now = time.time
_draw = random.Random(1)
_off_s, _next_jump = 0.0, 0.0
DAY_S = 24 * 3600


def jumping_time() -> float:
    """The wall clock, which is set anew twice a second."""
    global _off_s, _next_jump
    if time.monotonic() > _next_jump:
        _off_s, _next_jump = _draw.uniform(-DAY_S, DAY_S), time.monotonic() + 0.5
    return _now() + _off_s


time.time = jumping_time  # before anything else takes it

from stream_app.__main__ import main  # noqa: E402
from stream_app.broker import Outgoing  # noqa: E402
from stream_app.kafka_broker import KafkaBroker  # noqa: E402

ROUND_S = 0.2


class SlowBroker(KafkaBroker):
    """Takes its time."""

    def send(self, outgoing: Mapping[int, Outgoing]) -> dict[int, list[int]]:
        """After a pause."""
        time.sleep(ROUND_S)
        return super().send(outgoing)


if __name__ == "__main__":
    from stream_app import worker

    worker.KafkaBroker = SlowBroker  # type: ignore[misc]
    sys.exit(main())
