"""The reference pages that the code itself writes: settings, metrics and modules.

`python -m ops.reference`, or `make docs`, writes them to `docs/reference`; a test holds them current.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from ops.__main__ import COMMANDS
from ops.console import metrics as console
from ops.rebuild import Rebuild
from schemas.artefact_store import ArtefactStore
from schemas.settings import SECRETS, Command, Settings
from stream_app.champion import Champion
from stream_app.engine import Engine, store_directory
from stream_app.health import Health
from stream_app.host import Host
from stream_app.kafka_broker import KafkaBroker
from stream_app.metrics import WorkerMetrics
from stream_app.settings import WorkerSettings
from training.__main__ import COMMANDS as TRAINING
from training.bench import Bench
from training.run import Run

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docs" / "reference"
PROGRAMS: Final[Mapping[str, type[Command]]] = {
    "stream_app": WorkerSettings,
    **{f"training {name}": command for name, command in TRAINING.items()},
    **{f"ops {name}": command for name, command in sorted(COMMANDS.items())},
}
"""every command, by what follows `python -m`"""

_OF_THE_MACHINE: Final[Mapping[tuple[type[Settings], str], str]] = {
    (WorkerSettings, "worker_id"): "the host's name",
    (Rebuild, "worker_id"): "the host's name",
    (Run, "threads"): "the number of cores",
    (Bench, "threads"): "the number of cores",
}
_KINDS: Final[Mapping[Any, str]] = {bool: "yes or no", int: "integer", float: "number", Path: "path"}
_BOUNDS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_WRITTEN: Final = "<!-- Written by `make docs` from the code. -->"


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    return {"settings.md": settings_page(), "metrics.md": metrics_page(), "modules.md": modules_page()}


def settings_page() -> str:
    """Every setting of every command."""
    lines = [
        "# Settings",
        _WRITTEN,
        "A setting comes from the command line, then from the environment, then from a file `.env` in the working",
        "directory, then from its default. `--help` of a command shows all of its own. Durations say their unit.",
        "",
        "## Of every command",
        "",
        *_settings_table(Settings, Settings.model_fields),
    ]
    for name, command in PROGRAMS.items():
        own = {key: field for key, field in command.model_fields.items() if key not in Settings.model_fields}
        if own:
            lines += [
                "",
                f"## python -m {name}",
                "",
                f"{_sentence(command.__doc__)}",
                "",
                *_settings_table(command, own),
            ]
    return _page(lines)


def metrics_page() -> str:
    """Every metric of a worker and of the console."""
    lines = [
        "# Metrics",
        _WRITTEN,
        "For Prometheus. The client library adds metrics of the process (`process_*`, `python_*`) to those of a",
        "worker. No metric is labelled with a user.",
        "",
        "## Of a worker",
        "",
        "On `/metrics` of its `--web-port`.",
        "",
        *_metrics_table(_worker_metrics()),
        "",
        "## Of the console",
        "",
        "On `/metrics` of `python -m ops console`.",
        "",
        *_metrics_table(_console_metrics()),
    ]
    return _page(lines)


def modules_page() -> str:
    """Every module with the first line of its docstring."""
    lines = [
        "# Modules",
        _WRITTEN,
        "Each module's own first line. What may import what: [architecture](../architecture.md).",
    ]
    for package in ("schemas", "stream_app", "training", "ops"):
        lines += ["", f"## {package}", "", _said(ROOT / package / "__init__.py"), "", "| module | |", "|---|---|"]
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py":
                name = path.relative_to(ROOT / package).as_posix()
                lines.append(f"| [`{name}`](../../{package}/{name}) | {_said(path)} |")
    return _page(lines)


def write() -> None:
    """Write the pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


def _settings_table(command: type[Settings], fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    shortcuts = command.model_config.get("cli_shortcuts") or {}
    yield "| option | environment | value | default | |"
    yield "|---|---|---|---|---|"
    for name, field in fields.items():
        full = name.replace("_", "-")
        option = f"`--{shortcuts.get(full, full)}`"
        environment = f"`RECOMMENDER_{name.upper()}`"
        if field.is_required():
            default = "required"
            if full not in shortcuts:
                option, environment = f"`{name.upper()}`", ""
        elif name in SECRETS:
            option, default = "", ""
        else:
            default = _OF_THE_MACHINE.get((command, name)) or _default(field.default)
        description = (field.description or "").replace("|", "\\|")
        yield f"| {option} | {environment} | {_value(name, field)} | {default} | {description} |"


def _value(name: str, field: FieldInfo) -> str:
    """What may be given, with unit and bounds."""
    kind = field.annotation
    if NoneType in get_args(kind):
        kind = next(one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Literal:
        return " ".join(f"`{one}`" for one in get_args(kind))
    if any(isinstance(one, BeforeValidator) for one in get_args(kind)):
        return "duration"
    kind = next(iter(get_args(kind)), kind)  # out of Annotated
    word = "seconds" if name.endswith("_s") else _KINDS.get(kind, "text")
    bounds = [
        f"{sign} {getattr(one, limit):,}"
        for one in field.metadata
        for limit, sign in _BOUNDS.items()
        if hasattr(one, limit)
    ]
    return " ".join((word, ", ".join(bounds))).strip()


def _default(value: Any) -> str:
    if value is None or str(value) == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`"


def _metrics_table(metrics: Iterable[Metric]) -> Iterator[str]:
    yield "| metric | type | labels | |"
    yield "|---|---|---|---|"
    for metric in metrics:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in getattr(metric, "_labelnames", ()))
        yield f"| `{name}` | {metric.type} | {labels} | {metric.documentation.rstrip('.')}. |"


def _console_metrics() -> Iterator[Metric]:
    families = text_string_to_metric_families(console.Metrics().exposition().decode())
    return (metric for metric in families if not metric.name.endswith("_created"))


def _worker_metrics() -> Iterator[Metric]:
    """Of a worker that is wired but not started."""
    with TemporaryDirectory() as directory:
        settings = WorkerSettings(data_dir=Path(directory), artefact_store=directory)
        host = Host(settings)
        engine = Engine(settings, KafkaBroker(settings), host.confirm)
        champion = Champion(ArtefactStore(settings.artefact_store), engine.swap)
        health = Health(host, engine, settings.stuck_after_s)
        yield from WorkerMetrics(host, engine, champion, health, store_directory(settings)).collect()
        engine.close()


def _said(path: Path) -> str:
    return _sentence(ast.get_docstring(ast.parse(path.read_text())))


def _sentence(docstring: str | None) -> str:
    """The first sentence or line of a docstring, with a capital and a stop."""
    first = (docstring or "").partition("\n\n")[0].replace("\n", " ").replace("|", "\\|").strip().rstrip(".")
    return f"{first[:1].upper()}{first[1:]}."


def _page(lines: list[str]) -> str:
    title, note, *rest = lines
    return "\n".join([title, "", note, "", *rest]) + "\n"


if __name__ == "__main__":
    write()
