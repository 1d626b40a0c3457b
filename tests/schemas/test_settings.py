from pathlib import Path
from typing import Self

import pytest
from pydantic import Field, ValidationError, model_validator

from schemas.settings import DONE, FAILED, REFUSED, Command, Refused, run, run_command


class Show(Command):
    """Show the broker.

    Nothing else.
    """

    timeout_s: float = Field(3.0, gt=0, description="seconds to wait")
    fail: bool = Field(False, description="fail")
    refuse: bool = Field(False, description="refuse")
    interrupt: bool = Field(False, description="interrupt")

    def run(self) -> int:
        if self.refuse:
            raise Refused("topic x has 3 partitions: make 16")
        if self.interrupt:
            raise KeyboardInterrupt
        print(self.broker)
        return FAILED if self.fail else DONE


@pytest.fixture(autouse=True)
def nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("BROKER", "TIMEOUT_S", "PARTITIONS", "LOG_LEVEL", "APP"):
        monkeypatch.delenv(f"RECOMMENDER_{name}", raising=False)


def show(*arguments: str) -> int:
    return run("python -m x", {"show": Show}, ["show", *arguments])


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    show()
    Path(".env").write_text("RECOMMENDER_BROKER=file:1\n")
    show()
    monkeypatch.setenv("RECOMMENDER_BROKER", "environment:1")
    show()
    show("--broker", "command-line:1")
    assert capsys.readouterr().out.split() == ["localhost:9092", "file:1", "environment:1", "command-line:1"]


def test_the_status_is_the_commands_own():
    assert (show(), show("--fail")) == (DONE, FAILED)


@pytest.mark.parametrize(
    ("argument", "value", "field"),
    [
        ("--partitions", "0", "partitions"),
        ("--partitions", "many", "partitions"),
        ("--timeout-s", "-1", "timeout_s"),
        ("--app", "a/b", "app"),
        ("--broker", "", "broker"),
        ("--log-level", "loud", "log_level"),
    ],
)
def test_a_wrong_value_is_one_line_and_status_2(
    argument: str, value: str, field: str, capsys: pytest.CaptureFixture[str]
):
    assert show(argument, value) == REFUSED
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"python -m x show: {field}: ")
    assert line.endswith(f", got {value!r}\n")


def test_a_rule_about_several_settings_speaks_for_itself(capsys: pytest.CaptureFixture[str]):
    class Ordered(Show):
        @model_validator(mode="after")
        def _partitions_suffice(self) -> Self:
            if self.partitions < self.replication:
                raise ValueError("partitions must be at least replication")
            return self

    assert run_command("x", Ordered, ["--partitions", "2", "--replication", "3"]) == REFUSED
    assert one_line(capsys.readouterr().err) == "x: partitions must be at least replication\n"


def test_a_pattern_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]):
    class Cased(Show):
        name: str = Field("A", pattern="^[A-Z]+$", description="upper case")

    assert run_command("x", Cased, ["--name", "b"]) == REFUSED
    assert one_line(capsys.readouterr().err) == "x: name: string should match pattern '^[A-Z]+$', got 'b'\n"


def test_a_failure_of_the_command_is_not_reported_as_a_wrong_setting():
    class Failing(Show):
        def run(self) -> int:
            Show(partitions=0)
            return DONE

    with pytest.raises(ValidationError):
        run_command("x", Failing, [])


def test_a_child_reads_the_same_settings_from_its_environment(monkeypatch: pytest.MonkeyPatch):
    class Rich(Show):
        rate: float | None = Field(None, description="events/s")
        home: Path = Field(Path("a"), description="directory")
        ports: list[int] = Field([], description="ports")

    mine = Rich(fail=True, home=Path("/b"), ports=[1, 2], broker="b:1", app="12")
    for name, value in mine.environment().items():
        monkeypatch.setenv(name, value)
    assert Rich() == mine
    assert "RECOMMENDER_RATE" not in mine.environment()


def test_a_wrong_value_in_the_environment_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RECOMMENDER_PARTITIONS", "-3")
    assert show() == REFUSED
    assert "partitions" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["--unknown", "1"], ["--unknown"], ["stray"], ["--broker"]])
def test_an_option_that_does_not_exist_is_one_line_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
):
    assert show(*arguments) == REFUSED
    captured = capsys.readouterr()
    assert one_line(captured.err).startswith("python -m x show: ")
    assert captured.out == ""


def test_help_shows_units_defaults_and_the_environments_names(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        show("--help")
    assert ended.value.code == DONE
    text = " ".join(capsys.readouterr().out.split())
    for expected in ("Show the broker.", "--timeout-s", "seconds to wait", "3.0", "RECOMMENDER_TIMEOUT_S"):
        assert expected in text


def test_a_refusal_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]):
    assert show("--refuse") == REFUSED
    assert one_line(capsys.readouterr().err) == "python -m x show: topic x has 3 partitions: make 16\n"


def test_an_interrupt_ends_with_the_shells_status():
    assert show("--interrupt") == 130


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_without_a_command_all_are_listed(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert run("python -m x", {"show": Show}, arguments) == DONE
    assert "show       Show the broker.\n" in capsys.readouterr().out


def test_an_unknown_command_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]):
    assert run("python -m x", {"show": Show}, ["shw"]) == REFUSED
    assert one_line(capsys.readouterr().err) == "python -m x: no command 'shw', there are: show\n"


def test_a_programs_only_command_needs_no_name(capsys: pytest.CaptureFixture[str]):
    assert run_command("x", Show, ["--broker", "b:1"]) == DONE
    assert capsys.readouterr().out == "b:1\n"


def test_the_log_level_is_read_in_any_case():
    assert Show(log_level="dEbUg").log_level == "DEBUG"


def test_the_changelog_belongs_to_the_app():
    assert Show(app="shop").changelog == "shop-users-changelog"
