import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from schemas import logs


@pytest.fixture(autouse=True)
def logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)


def lines(captured: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in captured.readouterr().err.splitlines()]


def test_every_line_is_a_json_object_when_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]):
    logs.configure("INFO", worker="w1")
    structlog.get_logger().warning("slow", partition=3)
    logging.getLogger("some.library").error("failed: %s", "why")
    ours, theirs = lines(capsys)
    assert (ours["event"], ours["partition"], ours["level"]) == ("slow", 3, "warning")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("failed: why", "some.library", "error")
    assert ours["worker"] == theirs["worker"] == "w1"
    assert str(ours["timestamp"]).endswith("Z")


def test_a_line_goes_to_what_stderr_is_now(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    before = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", before)
        logs.configure("INFO")
    before.close()
    structlog.get_logger().warning("late")
    [line] = lines(capsys)
    assert line["event"] == "late"


def test_a_traceback_stays_on_its_line(capsys: pytest.CaptureFixture[str]):
    logs.configure("INFO")
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("ended")
    (line,) = lines(capsys)
    assert "broken" in json.dumps(line["exception"])


def test_a_person_on_a_terminal_gets_no_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.configure("INFO")
    structlog.get_logger().info("hello")
    text = capsys.readouterr().err
    assert "hello" in text
    assert "{" not in text


@pytest.mark.parametrize(("level", "expected"), [("DEBUG", 3), ("INFO", 2), ("WARNING", 1), ("ERROR", 0)])
def test_what_lies_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str], level: str, expected: int):
    logs.configure(level)
    log = structlog.get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    assert len(lines(capsys)) == expected


def test_chatty_libraries_are_heard_from_warning_on(capsys: pytest.CaptureFixture[str]):
    logs.configure("DEBUG")
    logging.getLogger("aiokafka.client").info("connected")
    logging.getLogger("aiokafka.client").warning("lost")
    assert [line["event"] for line in lines(capsys)] == ["lost"]


def test_a_librarys_repeated_message_is_dropped(capsys: pytest.CaptureFixture[str]):
    logs.configure("INFO")
    for attempt in range(5):
        logging.getLogger("aiokafka.client").warning("attempt %d", attempt)
    logging.getLogger("aiokafka.client").warning("from another line")
    assert [line["event"] for line in lines(capsys)] == ["attempt 0", "from another line"]


def test_a_librarys_message_is_logged_again_after_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    times = iter([100.0, 109.9, 110.0, 119.0, 120.1])
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(times))
    logs.configure("INFO")
    for attempt in range(5):
        logging.getLogger("kafka").warning("attempt %d", attempt)
    assert [line["event"] for line in lines(capsys)] == ["attempt 0", "attempt 2", "attempt 4"]


def test_our_own_repeated_messages_are_kept(capsys: pytest.CaptureFixture[str]):
    logs.configure("INFO")
    for partition in range(3):
        structlog.get_logger().warning("healed", partition=partition)
    assert [line["partition"] for line in lines(capsys)] == [0, 1, 2]


def test_a_function_in_the_context_is_asked_for_each_line(capsys: pytest.CaptureFixture[str]):
    versions = iter([None, 7])
    logs.configure("INFO", worker="w1", serving=lambda: next(versions))
    structlog.get_logger().info("started")
    structlog.get_logger().info("swapped")
    assert [line["serving"] for line in lines(capsys)] == [None, 7]


def test_a_logger_that_was_used_has_the_context_of_later_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    log = structlog.get_logger()
    for worker in ("w1", "w2"):
        logs.configure("INFO", worker=worker)
        log.info("started")
    with capture_logs() as captured:
        log.info("found")
    assert [line["worker"] for line in lines(capsys)] == ["w1", "w2"]
    assert captured == [{"event": "found", "log_level": "info"}]
