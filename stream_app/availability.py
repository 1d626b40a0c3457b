"""The items that must not be recommended, as the topic `items` says."""

from collections.abc import Callable, Collection, Sequence

import structlog
from confluent_kafka import Message

from schemas import item
from schemas.malformed import Malformed

_log = structlog.get_logger()


class Availability:
    """Follows the topic `items`.

    Args:
        set_unavailable: takes the hashes of all items that are unavailable from now on.

    Attributes:
        refused: records that could not be read; what was said of their item before still holds.
    """

    ready = True

    def __init__(self, set_unavailable: Callable[[Collection[int]], None]) -> None:
        self.refused = 0
        self._set_unavailable = set_unavailable
        self._unavailable: frozenset[int] = frozenset()

    def catch_up(self, messages: Sequence[Message]) -> None:
        """Take in the whole topic."""
        self.follow(messages)

    def follow(self, messages: Sequence[Message]) -> None:
        """Take in what came since. A removed record makes its item available again."""
        unavailable = set(self._unavailable)
        for message in messages:
            try:
                item_hash = item.item_hash(item.decode_key(message.key()))
                value = message.value()
                if value is None or item.decode(value).available:
                    unavailable.discard(item_hash)
                else:
                    unavailable.add(item_hash)
            except Malformed as error:
                self.refused += 1
                _log.warning("item record refused", offset=message.offset(), error=str(error))
        if unavailable != self._unavailable:
            self._unavailable = frozenset(unavailable)
            self._set_unavailable(self._unavailable)
            _log.info("items unavailable", count=len(unavailable))
