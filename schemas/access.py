"""What each process must be allowed to do on the cluster, and nothing more: its access control list.

Kafka counts whoever may read or write something as allowed to describe it.
"""

from typing import Final, Literal, NamedTuple

from schemas.settings import Settings

Operation = Literal["READ", "WRITE", "CREATE", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS"]


class Access(NamedTuple):
    """Operations on one resource."""

    resource: Literal["topic", "group", "transactional-id"]
    name: str
    operations: tuple[Operation, ...]


PROCESSES: Final = {
    "worker": "`python -m stream_app`",
    "training": "`python -m training run`",
    "promote": "`python -m training promote`, `rollback` and `history`",
    "topics": "`python -m ops topics`",
    "producer": "your programs that send events, `python -m ops import` and `replay`",
    "reader": "your programs that read lists, `python -m ops watch`",
    "console": "`python -m ops console`",
    "dlq": "`python -m ops dlq`",
    "forget": "`python -m ops forget`",
    "reset": "`python -m ops reset`",
    "rebuild": "`python -m ops rebuild --from store`, `changelog` or `log`",
}
"""what runs as each process"""


def access(settings: Settings, process: str) -> tuple[Access, ...]:
    """What `process`, one of `PROCESSES`, needs under these settings."""
    s = settings
    # a client that reads without a group names one all the same, and looks for its coordinator
    reads = Access("group", f"{s.app}-reader", ("DESCRIBE",))
    match process:
        case "worker":
            return (
                Access("topic", s.interactions, ("READ",)),
                Access("topic", s.recommendations, ("WRITE",)),
                Access("topic", s.dead_letters, ("WRITE",)),
                Access("topic", s.changelog, ("READ", "WRITE")),
                Access("topic", s.models, ("READ",)),
                Access("topic", s.items, ("READ",)),
                Access("group", s.app, ("READ",)),
                reads,
            )
        case "training":
            return (
                Access("topic", s.interactions, ("READ",)),
                Access("topic", s.models, ("READ", "WRITE")),
                reads,
            )
        case "promote":
            return Access("topic", s.models, ("READ", "WRITE")), reads
        case "topics":
            names = s.interactions, s.recommendations, s.dead_letters, s.changelog, s.models, s.items
            return tuple(Access("topic", name, ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS")) for name in names)
        case "producer":
            return Access("topic", s.interactions, ("WRITE",)), Access("topic", s.items, ("WRITE",))
        case "reader":
            return Access("topic", s.recommendations, ("READ",)), Access("topic", s.items, ("READ",)), reads
        case "console":
            topics = s.interactions, s.recommendations, s.models, s.items
            return (
                *(Access("topic", name, ("READ",)) for name in topics),
                Access("group", s.app, ("DESCRIBE",)),
                reads,
            )
        case "dlq":
            return (
                Access("topic", s.dead_letters, ("READ", "WRITE")),
                Access("topic", s.interactions, ("READ", "WRITE")),
                Access("transactional-id", f"{s.app}-dlq", ("WRITE",)),
                reads,
            )
        case "forget":
            return (
                Access("topic", s.interactions, ("READ", "WRITE")),
                Access("topic", s.recommendations, ("READ",)),
                Access("topic", s.changelog, ("READ",)),
                Access("topic", s.dead_letters, ("READ",)),
                reads,
            )
        case "reset":
            checked = s.interactions, s.recommendations, s.dead_letters, s.models, s.items
            return (
                *(Access("topic", name, ("DESCRIBE", "DESCRIBE_CONFIGS")) for name in checked),
                Access("topic", s.changelog, ("CREATE", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS")),
                Access("group", s.app, ("DELETE", "DESCRIBE")),
                reads,
            )
        case "rebuild":
            kept = s.recommendations, s.dead_letters, s.models, s.items
            return (
                Access("topic", s.interactions, ("READ", "DESCRIBE_CONFIGS")),
                *(Access("topic", name, ("DESCRIBE", "DESCRIBE_CONFIGS")) for name in kept),
                Access("topic", s.changelog, ("CREATE", "DELETE", "READ", "WRITE", "DESCRIBE_CONFIGS")),
                Access("group", s.app, ("DELETE", "READ")),
                reads,
            )
    raise ValueError(f"no process {process!r}, there are: {', '.join(PROCESSES)}")
