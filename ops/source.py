"""What commands have in common that take their events from a file."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Protocol

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.progress import Progress

from ops import movielens
from ops.event_file import OPTIONS, EventFile, Part
from schemas.event import Event
from schemas.field_mapping import TimeUnit
from schemas.inter_file import read_interactions
from schemas.report import SHORTCUTS, Report
from schemas.settings import Refused

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Column = Annotated[str, Field(min_length=1)]

_SHOWN_EVERY: Final = 10_000


class Events(Protocol):
    """Events in an order, and how many they are."""

    def __len__(self) -> int: ...

    def events(self) -> Iterator[Event]:
        """The events."""


class Source(Report):
    """Events out of a file, all or a part of them."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(cli_shortcuts=SHORTCUTS | {"since": "from"})

    file: CliPositionalArg[Path] = Field(
        description="events: .inter (RecBole), .csv, .jsonl or .ndjson, each also with .gz, or .parquet; "
        f"{movielens.NAME} fetches MovieLens 100K"
    )
    since: Fraction = Field(0.0, description="leave out this first part of the events, 0.8 for 80 percent")
    until: Fraction = Field(
        1.0, description="stop after this part of the events, in the order of a .inter file's times or else of the file"
    )
    user_column: Column = Field("user_id", description="column of the user; in JSON a dot leads into an object")
    item_column: Column = Field("item_id", description="column of the item")
    time_column: Column = Field("timestamp", description="column of the time")
    time_unit: TimeUnit | None = Field(None, description="unit of the time, for files that do not say")
    event_type_column: Column | None = Field(None, description="column of the event type [event_type if there is one]")
    event_id_column: Column | None = Field(None, description="column of the event id [event_id if there is one]")
    on_bad_row: Literal["stop", "skip"] = Field(
        "stop", description="stop: produce nothing of a file in which a row is no event; skip: leave such rows out"
    )

    def path(self) -> Path:
        """The file; it is fetched when it is MovieLens 100K.

        Raises:
            Unavailable: it could not be fetched.
        """
        wanted = str(self.file) == movielens.NAME and not self.file.exists()
        return movielens.movielens() if wanted else self.file

    def read(self, path: Path) -> tuple[Events, int]:
        """The wanted part of the events at `path`, and how many rows of the file are left out because they are none.

        Raises:
            Refused: the file is wrong, see `read_interactions` and `EventFile`.
        """
        if path.name.removesuffix(".gz").endswith(".inter"):
            self._refuse_options_of_other_files(path)
            return read_interactions(path).part(self.since, self.until), 0
        columns = {
            "user_id": self.user_column,
            "item_id": self.item_column,
            "timestamp": self.time_column,
            "event_type": self.event_type_column,
            "event_id": self.event_id_column,
        }
        given = {field: column for field, column in columns.items() if column}
        file = EventFile(path, given, self.time_unit, skip=self.on_bad_row == "skip")
        count = _check(file)
        if file.skipped:
            print(f"{path}: {file.skipped:,} rows left out, the first: {file.first_skipped}", file=sys.stderr)
        if not count:
            raise Refused(f"{path}: no events")
        return Part(file, round(self.since * count), round(self.until * count)), file.skipped

    def _refuse_options_of_other_files(self, path: Path) -> None:
        others = {*OPTIONS.values(), "--time-unit", "--on-bad-row"}
        given = sorted(others & {f"--{name.replace('_', '-')}" for name in self.model_fields_set})
        if given:
            raise Refused(f"{path}: {', '.join(given)} cannot be given: what the columns of a .inter file are is known")


def _check(file: EventFile) -> int:
    """Read a file to its end and count the events, so that nothing is produced of one that is wrong."""
    count = 0
    with Progress(console=Console(stderr=True, quiet=not sys.stderr.isatty()), transient=True) as progress:
        task = progress.add_task("checking", total=1.0)
        for count, _ in enumerate(file, start=1):
            if not count % _SHOWN_EVERY:
                progress.update(task, completed=file.done)
    return count
