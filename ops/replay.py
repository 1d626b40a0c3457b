"""A file as live traffic: its events at a steady rate."""

import sys
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from pydantic import Field
from rich.console import Console
from rich.progress import track

from ops.publisher import Publisher
from ops.source import Source
from ops.topics import admin, require
from schemas.event import Event
from schemas.settings import DONE, Settings

_SHORTEST_WAIT_S: Final = 0.001
"""the client waits in whole milliseconds; what is due within one is sent together"""


class Replayed(NamedTuple):
    """What was produced and acknowledged."""

    events: int
    seconds: float
    late_s: float
    """the most that an event was produced after it was due"""


def replay(settings: Settings, events: Iterable[Event], rate: float, now: bool = False) -> Replayed:
    """Produce `events` at `rate` per second and wait for every acknowledgement.

    An open loop: event i is due i / `rate` seconds after the first, however slow the cluster is, so that a stall delays
    events that were due and shows in their latency instead of thinning out the traffic.

    An event keeps its own timestamp, so that a history means the same whether it was imported or replayed; with `now`
    it gets the time at which it is produced. The record's timestamp is always that time: latency is measured from it.

    Raises:
        KafkaException, TimeoutError: a record was lost, or not acknowledged in time.
    """
    encode = settings.event_codec.encode
    began, late_s = time.monotonic(), 0.0
    with Publisher(settings) as publisher:
        for number, event in enumerate(events):
            due = began + number / rate
            while (wait_s := due - time.monotonic()) > 0:
                publisher.poll(max(wait_s, _SHORTEST_WAIT_S))
            late_s = max(late_s, -wait_s)
            sent = event._replace(timestamp_ms=time.time_ns() // 1_000_000) if now else event
            publisher.send(settings.interactions, sent.user_id, encode(sent))
    return Replayed(publisher.sent, time.monotonic() - began, late_s)


class Replay(Source):
    """produce the events of a file as live traffic"""

    rate: float = Field(200.0, gt=0, description="events per second")
    now: bool = Field(False, description="events happen when they are produced, instead of at their own time")

    def run(self) -> int:
        """Replay and report."""
        interactions, skipped = self.read(self.path())
        with admin(self, "producer") as client:
            require(client, self.interactions)
        console = Console(stderr=True, quiet=not sys.stderr.isatty())
        events = track(interactions.events(), "replaying", len(interactions), console=console, transient=True)
        replayed = replay(self, events, self.rate, self.now)
        rate = replayed.events / replayed.seconds
        self.report(
            f"{replayed.events:,} events in {replayed.seconds:.1f} s ({rate:,.1f} events/s), "
            f"at most {replayed.late_s * 1000:.0f} ms late",
            events=replayed.events,
            skipped=skipped,
            seconds=round(replayed.seconds, 3),
            events_per_second=round(rate, 1),
            late_ms=round(replayed.late_s * 1000, 1),
        )
        return DONE
