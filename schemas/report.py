"""How a command that measures or checks says what it found."""

import json
from typing import ClassVar, Final

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from schemas.settings import Command

SHORTCUTS: Final = {"as-json": "json"}
"""short names on the command line; a field named json would hide a method of pydantic's"""


class Report(Command):
    """A command whose result is a line for a person, or with ``--json`` one JSON object."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(cli_shortcuts=SHORTCUTS)

    as_json: bool = Field(False, description="print the result as one JSON object")

    def report(self, line: str, **result: object) -> None:
        """Print `line` for a person, or `result` as the last line when JSON is wanted."""
        print(json.dumps(result) if self.as_json else line, flush=True)
