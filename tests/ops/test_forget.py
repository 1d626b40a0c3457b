"""What a receipt may be, and when a user is forgotten."""

from pathlib import Path

import pytest

from ops.forget import Forget, Receipt, digest, of_lists, of_state
from schemas import recommendation, state
from schemas.recommendation import Cause, Recommendation
from schemas.settings import REFUSED, Refused, Settings, run_command
from schemas.state import FORGOTTEN, StateRecord

SETTINGS = Settings(_env_file=None)
OFFSET = 10


@pytest.mark.parametrize(
    ("record", "gone"),
    [
        (None, False),
        (StateRecord(last_offset=9, events=3), False),
        (StateRecord(last_offset=9, flags=FORGOTTEN), False),
        (StateRecord(last_offset=10, flags=FORGOTTEN), True),
        (StateRecord(last_offset=11, events=1), True),
    ],
)
def test_a_state_is_gone_when_it_is_that_of_the_tombstone_or_younger(record: StateRecord | None, gone: bool):
    assert of_state(record and state.encode(record), OFFSET).gone is gone


def test_no_state_is_gone_for_good_once_the_log_has_expired():
    assert of_state(None, OFFSET, expired=True).gone
    assert not of_state(state.encode(StateRecord(last_offset=9, events=3)), OFFSET, expired=True).gone


@pytest.mark.parametrize(("offset", "gone"), [(None, True), (9, False), (11, True)])
def test_lists_are_gone_when_they_are_withdrawn_or_younger_than_the_tombstone(offset: int | None, gone: bool):
    value = None
    if offset is not None:
        value = recommendation.encode(Recommendation("anna", [], 1, Cause.EVENT, 0, offset, 1, None, 1, 1))
    assert of_lists(value, OFFSET).gone is gone


def test_a_receipt_does_not_name_the_user():
    path = Forget(_env_file=None, _cli_parse_args=["anna@example.org"]).receipt_path
    assert path.name == f"forget-{digest('anna@example.org')[:16]}.json"
    assert "anna" not in path.name
    assert digest("anna@example.org") != digest("bert@example.org")


def test_a_user_id_that_no_record_could_have_is_refused(capsys: pytest.CaptureFixture[str]):
    for user in ("", "x" * 257):
        assert run_command("ops forget", Forget, [user]) == REFUSED
        assert "user: user_id: must be 1 to 256 bytes" in capsys.readouterr().err


def receipt(**changes: object) -> str:
    """As a file has it."""
    whole = Receipt(
        user=digest("anna"),
        topic=SETTINGS.interactions,
        partition=1,
        offset=OFFSET,
        sent_at_ms=1,
        archive_events_before=None,
        archive_events_after=None,
        models=[],
    )
    return whole.model_copy(update=changes).model_dump_json()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory: name the file that forget has written"),
        ("{}", "is none: Field required"),
        (receipt(user=digest("bert")), "is of another user than 'anna'"),
        (receipt(topic="other"), "is of topic other"),
    ],
)
def test_a_receipt_that_proves_nothing_is_refused(
    content: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    command = Forget(_env_file=None, _cli_parse_args=["anna", "--verify"])
    if content is not None:
        command.receipt_path.write_text(content)
    with pytest.raises(Refused, match=said):
        command._read_receipt()


def test_a_receipt_says_whether_a_worker_has_obeyed():
    written = Receipt.model_validate_json(receipt())
    assert not written.obeyed
    assert not written.model_copy(update={"changelog_offset": 0}).obeyed
    assert written.model_copy(update={"changelog_offset": 0, "recommendations_offset": 0}).obeyed
