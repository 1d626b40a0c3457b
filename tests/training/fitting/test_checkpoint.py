import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from errno import ENOSPC
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from training.fitting import checkpoint
from training.fitting.checkpoint import MANIFEST, Checkpoint, Snapshot, key_of
from training.fitting.device import CPU
from training.fitting.evaluation import Metrics, evaluate
from training.fitting.fit import Diverged, Moment, Outcome, fit
from training.fitting.recipe import Recipe
from training.log.histories import Histories, Spans
from training.log.holdout import leave_one_out, newest
from training.log.interactions import read_file
from training.model.lrurec import LRURec, Shape
from training.retraining import Trained, retrain
from training.run import Run

ALWAYS_S = 1e-9
RECIPE = Recipe(window=8, batch=16, epochs=3, learning_rate=0.02, warmup_steps=5, dropout=0.2)


class Killed(Exception):
    """Stands for the end of the process, where a real one would take too long."""


def killer(after: int | None) -> Callable[[Moment], None]:
    """Ends a training after so many moments."""
    left = iter(range(after)) if after is not None else None

    def watch(_moment: Moment) -> None:
        if left is not None and next(left, None) is None:
            raise Killed

    return watch


def trained(
    histories: Histories, directory: Path, recipe: Recipe, killed_after: int | None = None
) -> tuple[LRURec, Outcome]:
    torch.manual_seed(0)
    model = LRURec(Shape(len(histories.item_ids), width=16, units=8), recipe.dropout)
    holdout = leave_one_out(histories)

    def validate(candidate: LRURec) -> Metrics:
        return evaluate(candidate, histories, holdout.validation, recipe.window, CPU)

    phase = Checkpoint(directory, ALWAYS_S).phase("fit")
    watch = killer(killed_after)
    outcome = fit(model, histories, holdout.train, recipe, CPU, validate=validate, watch=watch, phase=phase)
    return model, outcome


@pytest.mark.parametrize(
    "recipe", [RECIPE, dataclasses.replace(RECIPE, ema=0.9, evaluate_every=2, patience=1)], ids=["plain", "average"]
)
def test_a_training_that_is_killed_again_and_again_gives_the_model_and_the_curve_of_one_that_is_not(
    ring: Histories, tmp_path: Path, recipe: Recipe
) -> None:
    began = time.monotonic()
    expected, outcome = trained(ring, tmp_path / "whole", recipe)
    assert 0 < outcome.seconds < time.monotonic() - began
    for moments in (3, 4, 1, 0, 6):  # six steps an epoch, and a moment after each epoch
        with pytest.raises(Killed):
            trained(ring, tmp_path / "killed", recipe, moments)
    with capture_logs() as logs:
        model, resumed = trained(ring, tmp_path / "killed", recipe)
    assert [line["event"] for line in logs] == ["going on from a checkpoint"]
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), atol=0, rtol=0)
    assert dataclasses.replace(resumed, seconds=0) == dataclasses.replace(outcome, seconds=0)


def test_time_goes_on_from_the_checkpoint(ring: Histories, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=10**6, minutes=10.0, patience=10**6)
    with pytest.raises(Killed):
        trained(ring, tmp_path, recipe, 3)
    manifest = json.loads((tmp_path / MANIFEST).read_bytes())
    manifest["phases"]["fit"]["standing"]["seconds"] = 600.0
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert trained(ring, tmp_path, recipe)[1].epochs == 1


def test_a_checkpoint_of_other_data_or_another_recipe_is_dropped(ring: Histories, tmp_path: Path) -> None:
    other = dataclasses.replace(ring, items=ring.items[::-1].copy())
    for histories, recipe in ((other, RECIPE), (ring, dataclasses.replace(RECIPE, seed=1))):
        with pytest.raises(Killed):
            trained(histories, tmp_path, recipe, 3)
        with capture_logs() as logs:
            model, _ = trained(ring, tmp_path, RECIPE)
        assert logs[-1]["event"] == "checkpoint does not fit: starting anew"
        expected, _ = trained(ring, tmp_path / "whole", RECIPE)
        torch.testing.assert_close(model.state_dict(), expected.state_dict(), atol=0, rtol=0)


def test_a_training_that_diverged_is_not_gone_on_with(ring: Histories, tmp_path: Path) -> None:
    def spoil(moment: Moment) -> None:
        if moment.epoch == 1:
            with torch.no_grad():
                model.embedding_norm.weight.fill_(torch.nan)

    model = LRURec(Shape(len(ring.item_ids), width=16, units=8))
    with pytest.raises(Diverged):
        fit(model, ring, ring.users, RECIPE, CPU, watch=spoil, phase=Checkpoint(tmp_path, ALWAYS_S).phase("fit"))
    assert not Checkpoint(tmp_path, ALWAYS_S).found


def test_killed_while_it_catches_up_a_retraining_repeats_neither_phase(ring: Histories, tmp_path: Path) -> None:
    moments: dict[str, list[Moment]] = {}

    def retrained(directory: Path, killed_after: int | None = None) -> Trained:
        @contextmanager
        def bar(title: str) -> Iterator[Callable[[Moment], None]]:
            told, kill = moments.setdefault(title, []), killer(killed_after if title == "catch up" else None)

            def watch(moment: Moment) -> None:
                told.append(moment)
                kill(moment)

            moments[title].clear()
            yield watch

        holdout, kept = leave_one_out(ring), Checkpoint(directory, ALWAYS_S)
        return retrain(ring, holdout, RECIPE, CPU, bar, catch_up=True, checkpoint=kept)

    expected = retrained(tmp_path / "whole")
    steps = len(moments["catch up"])
    with pytest.raises(Killed):
        retrained(tmp_path / "killed", 4)
    found = retrained(tmp_path / "killed")
    assert not moments["fit"]
    assert len(moments["catch up"]) == steps - 4
    torch.testing.assert_close(found.model.state_dict(), expected.model.state_dict(), atol=0, rtol=0)
    assert (found.metrics, found.test) == (expected.metrics, expected.test)


def train(source: Path, directory: Path, every_s: float) -> dict[str, torch.Tensor]:
    """What the processes do that are killed, and the one that is not."""
    histories = read_file(source).histories
    recipe, kept = Recipe(window=10, batch=4, epochs=4), Checkpoint(directory, every_s)
    silent = nullcontext(lambda _moment: None)
    holdout = newest(histories, 0.1)
    trained = retrain(histories, holdout, recipe, CPU, lambda _: silent, catch_up=True, checkpoint=kept)
    return trained.model.state_dict()


def test_processes_that_are_killed_at_any_moment_leave_what_leads_to_the_same_weights(tmp_path: Path) -> None:
    rows = [f"u{user}\ti{(user * user + time) % 30}\t{time}\n" for user in range(20) for time in range(20)]
    source, directory = tmp_path / "walks.inter", tmp_path / "killed"
    source.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))
    draw, steps = random.Random(time.time_ns()), 0
    for _ in range(2):
        command = [sys.executable, __file__, str(source), str(directory)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            wanted = steps + draw.randint(1, 15)
            while (steps := at_step(directory)) < wanted:
                with pytest.raises(subprocess.TimeoutExpired):  # it has not ended
                    process.wait(0.02)
            process.send_signal(signal.SIGKILL)
    with capture_logs() as logs:
        found = train(source, directory, every_s=0)
    assert [line["event"] for line in logs] == ["going on from a checkpoint"]
    torch.testing.assert_close(found, train(source, tmp_path / "whole", every_s=0), atol=0, rtol=0)


def at_step(directory: Path) -> int:
    """Steps of both phases that a checkpoint has."""
    path = directory / MANIFEST
    phases = json.loads(path.read_bytes())["phases"] if path.exists() else {}
    return sum(phase["standing"]["steps"] for phase in phases.values())


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    directory = tmp_path / "kept"
    write(directory, 1.0)
    return directory


def write(directory: Path, value: float) -> None:
    kept = Checkpoint(directory, ALWAYS_S)
    kept.offsets = {"0": 7}
    kept.phase("fit").write(Snapshot({"model:bias": torch.full((9,), value)}, {"third": 1 / 3}))


def test_a_checkpoint_is_read_back(kept: Path) -> None:
    found = Checkpoint(kept, ALWAYS_S)
    saved = found.phase("fit").saved
    assert saved is not None
    assert (found.offsets, saved.facts) == ({"0": 7}, {"third": 1 / 3})
    assert torch.equal(saved.tensors["model:bias"], torch.ones(9))
    assert found.phase("catch up").saved is None


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated tensors": lambda at: os.truncate(next(at.glob("*.safetensors")), 50),
    "a flipped bit": lambda at: flip(next(at.glob("*.safetensors"))),
    "truncated manifest": lambda at: os.truncate(at / MANIFEST, 30),
    "empty manifest": lambda at: os.truncate(at / MANIFEST, 0),
    "another format": lambda at: (at / MANIFEST).write_text('{"format": 2}'),
    "no object": lambda at: (at / MANIFEST).write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_told_in_one_line_and_removed(kept: Path, damage: Callable[[Path], object]) -> None:
    damage(kept)
    with capture_logs() as logs:
        assert not Checkpoint(kept, ALWAYS_S).found
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("checkpoint cannot be read: starting anew", "warning")
    assert not kept.exists()


def test_a_checkpoint_whose_tensors_are_missing_is_damaged_too(kept: Path) -> None:
    next(kept.glob("*.safetensors")).unlink()
    with capture_logs() as logs:
        assert not Checkpoint(kept, ALWAYS_S).found
    assert len(logs) == 1


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_write_that_ends_half_way_leaves_a_whole_checkpoint(
    kept: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_disk, done = checkpoint._to_disk, iter(range(writes))

    def lose_power(path: Path) -> None:
        if next(done, None) is None:
            raise Killed
        to_disk(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_to_disk", lose_power)
        with pytest.raises(Killed):
            write(kept, 2.0)
    saved = Checkpoint(kept, ALWAYS_S).phase("fit").saved
    assert saved is not None
    assert torch.equal(saved.tensors["model:bias"], torch.full((9,), 2.0 if writes == 2 else 1.0))
    write(kept, 3.0)
    assert len(list(kept.iterdir())) == 2


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        write(tmp_path / "file" / "kept", 1.0)
    assert [line["event"] for line in logs] == ["checkpoint cannot be written: training goes on"]


def test_writes_that_fail_pile_up_nothing_on_a_full_disk(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path) -> None:
        raise OSError(ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_to_disk", full)
        for value in (2.0, 3.0):
            write(kept, value)
    assert len(list(kept.glob("*.safetensors"))) == 1
    saved = Checkpoint(kept, ALWAYS_S).phase("fit").saved
    assert saved is not None
    assert torch.equal(saved.tensors["model:bias"], torch.ones(9))


def test_after_one_that_does_not_fit_the_next_still_says_up_to_where_the_log_was_read(kept: Path) -> None:
    other = Checkpoint(kept, ALWAYS_S)
    other.phase("fit").drop("of other data")
    other.phase("fit").write(Snapshot({}, {}))
    assert Checkpoint(kept, ALWAYS_S).offsets == {"0": 7}


def test_it_is_due_after_its_seconds_and_never_with_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("training.fitting.checkpoint.time.monotonic", lambda: now)
    phases = [Checkpoint(tmp_path, every_s).phase("fit") for every_s in (60, 0)]
    now += 59
    assert [phase.due for phase in phases] == [False, False]
    now += 1
    assert [phase.due for phase in phases] == [True, False]
    phases[0].write(Snapshot({}, {}))
    assert not phases[0].due


def test_a_checkpoint_is_that_of_the_settings_that_matter() -> None:
    def key(**settings: object) -> str:
        return key_of(Run.model_validate(settings).of_checkpoint)

    assert key() == key(threads=7, publish=False, checkpoint_every="5s", every="6h")
    assert len({key(), key(seed=1), key(interactions="other"), key(from_inter="a.inter"), key(catch_up=False)}) == 5


def test_spans_to_train_on_are_part_of_what_a_checkpoint_is_of(ring: Histories, tmp_path: Path) -> None:
    model = LRURec(Shape(len(ring.item_ids), width=16, units=8))
    phase = Checkpoint(tmp_path, ALWAYS_S).phase("fit")
    with pytest.raises(Killed):
        fit(model, ring, ring.users, RECIPE, CPU, watch=killer(2), phase=phase)
    phase = Checkpoint(tmp_path, ALWAYS_S).phase("fit")
    assert phase.saved
    with pytest.raises(Killed):
        fit(model, ring, Spans(ring.users.begin, ring.users.end - 1), RECIPE, CPU, watch=killer(0), phase=phase)
    assert not phase.saved


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), Path(sys.argv[2]), ALWAYS_S)
