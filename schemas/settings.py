"""Settings that every process shares, and how a command is declared, parsed and run.

A command is a `Settings` class with a docstring and a `run` method. Its fields come from the command line, then from
the environment (`RECOMMENDER_*`), then from a `.env` file, then from their defaults; `--help` shows them all.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final

from pydantic import Field, SecretStr, StringConstraints, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict, SettingsError

from schemas.cluster import Cluster
from schemas.field_mapping import Codec, FieldMapping, TimeUnit

DONE, FAILED, REFUSED = 0, 1, 2
"""Exit statuses: done; failed, a restart helps; a wrong setting or a refusal to start, a restart does not help."""

SECRETS: Final = {name for name, field in Cluster.model_fields.items() if field.annotation is SecretStr}
"""settings that no command line takes"""

TopicName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,248}$")]


class Refused(Exception):
    """A command must not go on; the message is one line that names what is wrong and what mends it."""


class Settings(Cluster):
    """What producers, workers, training and operator tools must agree on."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="RECOMMENDER_",
        env_file=".env",
        extra="ignore",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_show_env_vars=True,
        cli_exit_on_error=False,
        hide_input_in_errors=True,  # it may be a password
    )

    app: TopicName = Field("recommender", description="consumer group, and prefix of the changelog topic")
    partitions: int = Field(16, ge=1, le=10_000, description="partitions of the topics that hold users")
    replication: int = Field(1, ge=1, le=10, description="copies of each partition; 3 on a real cluster")
    interactions: TopicName = Field("interactions", description="topic of events")
    event_fields: str = Field(
        "",
        description="where your producers' own events have ours: user_id=customer.id,item_id=sku,timestamp=ts; "
        "a dot leads into a nested map, what is not named keeps its name",
    )
    event_time_unit: TimeUnit = Field("ms", description="unit of the events' timestamp: s, ms, us, ns or iso (8601)")
    recommendations: TopicName = Field("recommendations", description="topic of lists")
    dead_letters: TopicName = Field("interactions.dlq", description="topic of records that could not be read")
    models: TopicName = Field("models", description="topic of model manifests")
    items: TopicName = Field("items", description="topic of item titles and availability")
    artefact_store: str = Field("./artefacts", min_length=1, description="where models are kept, a path or fsspec URL")
    archive: str = Field(
        "./archive",
        description="where training keeps what it has read of the log, a path or fsspec URL; empty for no archive",
    )
    log_level: Annotated[str, StringConstraints(to_upper=True, pattern="^(?i:debug|info|warning|error)$")] = Field(
        "INFO", description="debug, info, warning or error"
    )

    @property
    def changelog(self) -> str:
        """Topic of the users' state records."""
        return f"{self.app}-users-changelog"

    @property
    def event_codec(self) -> Codec:
        """Reads and writes events as `event_fields` and `event_time_unit` say."""
        if self.event_fields or self.event_time_unit != "ms":
            return FieldMapping.parse(self.event_fields, self.event_time_unit).codec
        return Codec()

    @field_validator("event_fields")
    @classmethod
    def _event_fields_make_a_mapping(cls, text: str) -> str:
        FieldMapping.parse(text)
        return text

    def environment(self) -> dict[str, str]:
        """All settings, with secrets, as a child process reads them from its environment; None is left out."""
        prefix = self.model_config["env_prefix"]
        values = self.model_dump(mode="json", exclude_none=True)
        values |= {name: value.get_secret_value() for name, value in self if isinstance(value, SecretStr)}
        return {
            f"{prefix}{name}".upper(): value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }


class Command(Settings):
    """A command of a program; its docstring is its help."""

    def run(self) -> int:
        """Do it and return the exit status."""
        raise TypeError(f"{type(self).__name__} has no run method")


def run(program: str, commands: Mapping[str, type[Command]], arguments: Sequence[str]) -> int:
    """Run the command that `arguments` name, e.g. ``["topics", "--partitions", "8"]``.

    Every way of being called wrongly is one line on stderr and exit status 2.
    """
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: {program} COMMAND [--help]\n")
        for known, command in commands.items():
            print(f"  {known:<10} {(command.__doc__ or '').partition(chr(10))[0]}")
        return DONE
    if name not in commands:
        print(f"{program}: no command {name!r}, there are: {', '.join(commands)}", file=sys.stderr)
        return REFUSED
    return run_command(f"{program} {name}", commands[name], rest)


def run_command(program: str, command: type[Command], arguments: Sequence[str]) -> int:
    """Parse `arguments` into `command` and run it; see `run`."""
    secrets = {f"--{name.replace('_', '-')}" for name in SECRETS}
    if shown := secrets & {argument.partition("=")[0] for argument in arguments}:
        names = ", ".join(sorted(shown))
        told = "others on this machine can read a command line: set it in the environment, .env or a file"
        print(f"{program}: {names}: {told}", file=sys.stderr)
        return REFUSED
    try:
        parsed = command(_cli_parse_args=list(arguments), _cli_prog_name=program)
    except ValidationError as error:
        for problem in error.errors():
            print(f"{program}: {_told(problem)}", file=sys.stderr)
        return REFUSED
    except SettingsError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return REFUSED
    try:
        return parsed.run()
    except Refused as error:
        print(f"{program}: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _told(problem: ErrorDetails) -> str:
    # a rule about several fields has no location, and its message names them
    field = "".join(f"{part}: " for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    wrong = f", got {problem['input']!r}" if problem["loc"] and "input" in problem else ""
    return f"{field}{message[:1].lower()}{message[1:]}{wrong}"
