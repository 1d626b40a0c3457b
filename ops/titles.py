"""Item titles out of RecBole's `.item` files, and out of the topic `items`."""

from pathlib import Path

from schemas.atomic_file import read
from schemas.item import Item, decode, decode_key
from schemas.kafka import end_offsets, read_topic
from schemas.settings import Refused, Settings


def read_items(path: Path) -> dict[str, Item]:
    """The items of an `.item` file by id.

    The title is the first column whose name ends in ``title``; the other columns that are not empty are attributes.

    Raises:
        Refused: the file cannot be read, or lacks the column `item_id` or a title.
    """
    items = {}
    for row in read(path, "item_id"):
        title = next((column for column in row if column.endswith("title")), None)
        if title is None:
            raise Refused(f"{path}: the header must name a title, it names {', '.join(row)}")
        attributes = {column: text for column, text in row.items() if text and column not in ("item_id", title)}
        items[row["item_id"]] = Item(row[title], attributes=attributes)
    return items


def items_beside(interactions: Path) -> Path | None:
    """The `.item` file of the same data set, if there is one."""
    name = interactions.name.removesuffix(".gz").removesuffix(".inter")
    return next(
        (path for path in (interactions.with_name(f"{name}.item{end}") for end in ("", ".gz")) if path.exists()), None
    )


def read_titles(settings: Settings) -> dict[str, str]:
    """The title of each item that has one on the topic `items`, by id.

    Raises:
        KafkaException: the cluster cannot be reached, or the topic does not exist.
        Malformed: a record is not an item.
    """
    topic = settings.items
    titles: dict[str, str] = {}
    for _, messages in read_topic(settings, topic, end_offsets(settings, topic)):
        for message in messages:
            value = message.value()
            titles[decode_key(message.key())] = "" if value is None else decode(value).title
    return {item_id: title for item_id, title in titles.items() if title}
