"""Filling the topic `interactions` from a file, as fast as it goes."""

import sys
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import track

from ops.publisher import Publisher
from ops.source import Events, Source
from ops.titles import items_beside, read_items
from ops.topics import admin, require
from schemas import item
from schemas.item import Item
from schemas.settings import DONE, Settings

_LINGER_MS: Final = 20.0


class Imported(NamedTuple):
    """What was produced and acknowledged."""

    events: int
    seconds: float
    """from the first record to the last acknowledgement"""


def import_interactions(settings: Settings, interactions: Events, show: bool = False) -> Imported:
    """Produce the events in their order and wait for every acknowledgement; `show` a progress bar on stderr.

    The events keep their own timestamps; the records' are the time of producing, so that retention counts from now.

    Raises:
        KafkaException, TimeoutError: a record was lost, or not acknowledged in time.
    """
    console = Console(stderr=True, quiet=not show)
    encode = settings.event_codec.encode
    began = time.perf_counter()
    with Publisher(settings, _LINGER_MS) as publisher:
        for one in track(interactions.events(), "importing", len(interactions), console=console, transient=True):
            publisher.send(settings.interactions, one.user_id, encode(one))
    return Imported(publisher.sent, time.perf_counter() - began)


def import_items(settings: Settings, items: Mapping[str, Item]) -> None:
    """Produce items to the topic `items` and wait for every acknowledgement.

    Raises:
        KafkaException, TimeoutError: a record was lost, or not acknowledged in time.
    """
    with Publisher(settings, _LINGER_MS) as publisher:
        for item_id, one in items.items():
            publisher.send(settings.items, item_id, item.encode(one))


class Import(Source):
    """produce the events of a file, and the titles of the .item file beside it"""

    def run(self) -> int:
        """Import and report."""
        path = self.path()
        interactions, skipped = self.read(path)
        titles = items_beside(path)
        items = read_items(titles) if titles else {}
        with admin(self, "producer") as client:
            require(client, self.interactions, *([self.items] if items else []))
        import_items(self, items)
        imported = import_interactions(self, interactions, show=sys.stderr.isatty())
        rate = round(imported.events / imported.seconds)
        self.report(
            f"{imported.events:,} events in {imported.seconds:.1f} s ({rate:,} events/s), {len(items):,} titles",
            events=imported.events,
            skipped=skipped,
            titles=len(items),
            seconds=round(imported.seconds, 3),
            events_per_second=rate,
        )
        return DONE
