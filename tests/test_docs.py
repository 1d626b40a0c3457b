"""What the documentation says exists: pages, headings, commands, settings, metrics, alerts."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic_settings import SettingsError

from ops.reference import FOLDER, PROGRAMS, ROOT, pages

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SCRIPTS = {"worker": "stream_app", "training": "training", "ops": "ops"}

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(
    r"(?:python -m (stream_app|training|ops)|lrurec-(worker|training|ops))(?![\w.])((?: +[^`|&;#()\[\n]+)?)"
)


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


of_each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = HEADING.findall(FENCE.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(document: Path) -> Iterator[tuple[str, list[str]]]:
    """Every command that is named, with its arguments; a line of shell code may be continued."""
    for module, script, arguments in COMMAND.findall(document.read_text().replace("\\\n", " ")):
        program, rest = module or SCRIPTS[script], shlex.split(arguments)
        if program != "stream_app" and rest and not rest[0].startswith("-"):
            program = f"{program} {rest.pop(0)}"
        if program not in ("training", "ops"):
            yield program, rest


@of_each_document
def test_every_link_leads_to_a_file_and_a_heading_of_it(document: Path):
    links = [link for link in LINK.findall(FENCE.sub("", document.read_text())) if "://" not in link]
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", [page for page in DOCUMENTS if page.parent != FOLDER], ids=name_of)
def test_every_command_parses(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # there is no .env
    for program, arguments in commands(document):
        try:
            PROGRAMS[program](_cli_parse_args=arguments)
        except SettingsError as error:
            if "arguments are required" not in str(error):  # a mention may leave them out
                raise


@of_each_document
def test_python_code_compiles(document: Path):
    for language, code in FENCE.findall(document.read_text()):
        if language == "python":
            compile(code, document, "exec")


def test_every_setting_that_is_named_exists():
    environment = {f"RECOMMENDER_{name.upper()}" for command in PROGRAMS.values() for name in command.model_fields}
    named = {name for page in DOCUMENTS for name in re.findall(r"RECOMMENDER_[A-Z_]+", page.read_text())}
    assert named - environment == set()


def test_the_reference_is_what_the_code_says():
    assert {name: (FOLDER / name).read_text() for name in pages()} == pages(), "run `make docs`"


def test_operations_say_what_to_do_on_every_alert():
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "ops/prometheus/alerts.yml").read_text())
    assert alerts
    assert {alert.lower() for alert in alerts} <= anchors(ROOT / "docs/operations.md")


def test_every_page_can_be_reached_from_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())}
    assert set((ROOT / "docs").rglob("*.md")) - linked == {index}
