import json
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.settings import DONE, REFUSED, run_command
from training.bench import Bench
from training.fitting.device import CPU
from training.log.histories import Histories, Spans
from training.rivals import cost
from training.rivals.cost import fitting, new_step, peak_mib, time_in_turn
from training.rivals.workload import Workload, full_windows, newest_windows, of_tokens, synthetic_log


@pytest.fixture(scope="module")
def log() -> Histories:
    return synthetic_log()


def small(length: int, tokens: int) -> Workload:
    """Full windows over few items."""
    events = np.random.default_rng(0).integers(0, 50, tokens + 1, dtype=np.int32)
    begin = np.arange(0, tokens, length)
    return Workload(events, Spans(begin, begin + length + 1), 50, length)


def test_the_random_log_has_the_sizes_of_movielens_1m(log: Histories) -> None:
    assert (len(log.users), len(log.item_ids)) == (6040, 3416)
    assert 900_000 < len(log.items) < 1_100_000
    assert log.items.max() == 3415


def test_the_newest_windows_end_with_their_users_and_stay_within_them(log: Histories) -> None:
    windows = newest_windows(log, 200).windows
    order = np.argsort(windows.end)
    assert windows.end[order].tolist() == log.users.end.tolist()
    assert windows.lengths[order].tolist() == np.minimum(log.users.lengths, 201).tolist()


def test_full_windows_are_full(log: Histories) -> None:
    assert set(full_windows(log, 200).windows.lengths.tolist()) == {201}


@pytest.mark.parametrize("length", [50, 2000])
def test_a_step_has_the_same_number_of_events_whatever_the_length(log: Histories, length: int) -> None:
    assert 5_000 <= of_tokens(newest_windows(log, length), 5_000).tokens < 5_000 + length
    assert 5_000 <= of_tokens(full_windows(log, length), 5_000).tokens < 5_000 + length


def test_a_log_that_is_too_short_gives_all_that_it_has() -> None:
    assert of_tokens(small(5, 20), 1_000).tokens == 20


def test_a_part_of_the_authors_step_is_scaled_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    work = small(10, 80)
    monkeypatch.setattr(cost, "PLACES_CPU", 2 * work.padded_length)
    assert [fitting(rival, work, CPU).tokens for rival in cost.RIVALS] == [20, 80, 80]
    monkeypatch.setattr(cost, "time_in_turn", lambda *_: {rival: [0.001, 0.003, 0.002] for rival in cost.RIVALS})
    found = cost.compare(work, CPU, runs=3, budget_s=1, memory=False)
    assert [found[rival].milliseconds for rival in cost.RIVALS] == [8, 2, 2]


def test_who_takes_too_long_makes_two_steps_and_the_others_all() -> None:
    works = dict.fromkeys(cost.RIVALS, small(4, 16))
    assert {len(taken) for taken in time_in_turn(works, CPU, 4, budget_s=60).values()} == {4}
    assert {len(taken) for taken in time_in_turn(works, CPU, 4, budget_s=1e-9).values()} == {2}


@pytest.mark.parametrize("rival", cost.RIVALS)
def test_every_rival_learns_from_its_steps(rival: cost.Rival, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    build = cost.torch.optim.AdamW
    monkeypatch.setattr(cost.torch.optim, "AdamW", lambda *args, **named: made.append(build(*args, **named)) or made[0])
    step = new_step(rival, small(8, 32), CPU)
    before = [parameter.detach().clone() for group in made[0].param_groups for parameter in group["params"]]
    step(small(8, 32))
    after = [parameter for group in made[0].param_groups for parameter in group["params"]]
    assert all((one != other).any() for one, other in zip(before, after, strict=True))


def test_the_memory_of_a_step_does_not_grow_with_the_length_of_its_sequences() -> None:
    short, long = (peak_mib("ours", small(length, 3_200), CPU) for length in (50, 400))
    assert 10 < long < 1.02 * short


def test_the_memory_of_a_step_is_what_it_has_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is as long as the square of the length shows, also if it is given back in the step."""

    def padded(workload: Workload) -> None:
        for _ in range(2):
            torch.zeros(len(workload.windows), workload.length, workload.length)

    monkeypatch.setattr(cost, "new_step", lambda *_: padded)
    found = [peak_mib("ours", small(length, 3_200), CPU) for length in (50, 400)]
    assert found == [pytest.approx(4 * 3_200 * length / 2**20, rel=0.01) for length in (50, 400)]


def test_the_command_prints_every_ratio_by_length(ring: Histories, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    file = tmp_path / "ring.inter"
    rows = [
        f"{user}\t{item}\t{time}"
        for user, span in enumerate(zip(ring.users.begin, ring.users.end, strict=True))
        for time, item in enumerate(ring.items[slice(*span)])
    ]
    file.write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    options = ["--from-inter", str(file), "--lengths", "4,9", "--tokens", "40", "--runs", "2", "--no-memory"]
    assert run_command("training bench", Bench, [*options, "--threads", "1", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert found["ratio_to_paper"].keys() == found["ratio_to_sasrec"].keys() == {"4", "9"}
    assert run_command("training bench", Bench, [*options, "--threads", "1"]) == DONE
    machine, *table = capsys.readouterr().out.splitlines()
    assert "torch" in machine
    assert [line.split()[0] for line in table if line[:1].isdigit()] == ["4", "9"]


def test_a_log_without_a_window_and_a_missing_file_are_refused_with_nothing_before_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "one.inter"
    file.write_text("user_id:token\titem_id:token\ttimestamp:float\nann\tone\t1\n")
    for path, problem in ((file, f"{file}: no user has two events"), (tmp_path / "none.inter", "none.inter")):
        assert run_command("training bench", Bench, ["--from-inter", str(path)]) == REFUSED
        out, err = capsys.readouterr()
        assert (out, problem in err) == ("", True)
