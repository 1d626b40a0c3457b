"""Logging with structlog: aligned and coloured for a person on a terminal, one JSON object a line otherwise."""

import logging
import logging.config
import sys
import time
from typing import Any, Final, TextIO

import structlog

_QUIET_S: Final = 10.0
"""a library's repeated message is logged at most this often: an outage makes aiokafka log 75 lines a second"""

_processors: list[structlog.typing.Processor] = []
"""one list for good: a logger keeps the one that it was first used with"""


def configure(level: str, **context: Any) -> None:
    """Send structlog and the standard library's loggers to stderr in one form.

    `context` is on every line; a function in it is called for each.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        lambda _logger, _method, event: {
            **{name: value() if callable(value) else value for name, value in context.items()},
            **event,
        },
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    person = sys.stderr.isatty()
    final: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()] if person else [_tracebacks, structlog.processors.JSONRenderer()]
    )
    ours = logging.getLogger("recommender")
    ours.setLevel(level)
    _processors[:] = [*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=lambda *_: ours,
        cache_logger_on_first_use=True,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    handler.addFilter(_Repeats())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if level == "DEBUG" else level)
    for library in ("aiokafka", "faust", "mode", "kafka"):
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.getLogger("kafka.net").setLevel(logging.ERROR)  # it warns when a machine is busy


_tracebacks = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is now, not to what it was when logging was configured: that may be closed."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _stream: TextIO) -> None:
        """What the base class was made with."""


class _Repeats(logging.Filter):
    """Drops a library's message that was logged from the same line a moment ago."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict):  # our own, through structlog
            return True
        line, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._last.get(line, -_QUIET_S) < _QUIET_S:
            return False
        self._last[line] = now
        return True
