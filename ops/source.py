"""What commands have in common that take their events from a file."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from ops import movielens
from schemas.inter_file import Interactions, read_interactions
from schemas.report import SHORTCUTS, Report

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Source(Report):
    """Events out of a RecBole `.inter` file, all or a part of them."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(cli_shortcuts=SHORTCUTS | {"since": "from"})

    file: CliPositionalArg[Path] = Field(
        description=f"RecBole .inter file, plain or gzipped; {movielens.NAME} fetches MovieLens 100K"
    )
    since: Fraction = Field(0.0, description="leave out this first part of the events by time, 0.8 for 80 percent")
    until: Fraction = Field(1.0, description="stop after this part of the events by time")

    def path(self) -> Path:
        """The file; it is fetched when it is MovieLens 100K.

        Raises:
            Unavailable: it could not be fetched.
        """
        wanted = str(self.file) == movielens.NAME and not self.file.exists()
        return movielens.movielens() if wanted else self.file

    def read(self, path: Path) -> Interactions:
        """The wanted part of the events at `path`.

        Raises:
            Refused: the file is wrong, see `read_interactions`.
        """
        return read_interactions(path).part(self.since, self.until)
