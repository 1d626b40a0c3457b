from pathlib import Path

import numpy as np
import torch

from schemas.artefact import CATALOGUE
from schemas.artefact_store import ArtefactStore
from training.fitting.device import CPU
from training.fitting.evaluation import rank
from training.log.histories import Histories, HistoryBuilder, Spans
from training.log.holdout import leave_one_out
from training.model.lrurec import LRURec, Shape
from training.release.artefact import build
from training.release.incumbent import MISSED, Incumbent, load_incumbent


def incumbent_of(item_ids: list[str]) -> Incumbent:
    torch.manual_seed(0)
    model = LRURec(Shape(len(item_ids), width=16, units=8)).eval()
    return Incumbent(5, model, item_ids)


def log_of(*users: str) -> Histories:
    """Each user is a word, each item a letter."""
    builder = HistoryBuilder()
    for number, word in enumerate(users):
        for time, letter in enumerate(word):
            builder.add(str(number), letter, time)
    return builder.build()


def test_items_are_found_by_their_ids_whatever_their_rows() -> None:
    incumbent = incumbent_of(list("fedcba"))
    histories = log_of("abcd", "fbea", "dce")
    held_out = leave_one_out(histories).test
    mapped = Histories(
        incumbent.rows_of(list(histories.item_ids))[histories.items].astype(np.int32),
        histories.timestamps_ms,
        histories.users,
        incumbent.item_ids,
    )
    expected = rank(incumbent.model, mapped, held_out, 8, CPU).ranks
    assert incumbent.rank(histories, held_out, 8, CPU).tolist() == expected.tolist()


def test_unknown_items_of_a_history_are_passed_over_and_unknown_targets_are_missed() -> None:
    incumbent = incumbent_of(list("abcdef"))
    plain = log_of("abcd", "bef", "cde")
    strange = log_of("xabycd", "bexf", "zcdzez", "xyz")
    held_out = Spans(strange.users.begin + 1, strange.users.end)
    found = incumbent.rank(strange, held_out, 8, CPU)
    by_event = dict(zip(((u, i) for u, w in enumerate(("abycd", "exf", "cdzez", "yz")) for i in w), found, strict=True))
    plainly = incumbent.rank(plain, Spans(plain.users.begin + 1, plain.users.end), 8, CPU)
    known = [by_event[key] for key in [(0, "b"), (0, "c"), (0, "d"), (1, "e"), (1, "f"), (2, "d"), (2, "e")]]
    assert known == plainly.tolist()
    assert {by_event[key] for key in [(0, "y"), (1, "x"), (2, "z"), (3, "y")]} == {MISSED}
    assert by_event[0, "a"] == MISSED  # there is nothing known before it


def test_it_comes_back_out_of_the_store(tmp_path: Path) -> None:
    incumbent, store = incumbent_of(list("abc")), ArtefactStore(str(tmp_path))
    artefact = build(incumbent.model, incumbent.item_ids, version_ms=5)
    artefact.write(store)
    loaded = load_incumbent(store, artefact.manifest)
    assert loaded is not None
    assert loaded.version == 5
    assert loaded.item_ids == incumbent.item_ids
    torch.testing.assert_close(loaded.model.state_dict(), incumbent.model.state_dict(), rtol=0, atol=0)


def test_one_that_is_damaged_or_missing_is_none(tmp_path: Path) -> None:
    incumbent, store = incumbent_of(list("abc")), ArtefactStore(str(tmp_path))
    artefact = build(incumbent.model, incumbent.item_ids, version_ms=5)
    assert load_incumbent(store, artefact.manifest) is None
    artefact.write(store)
    (tmp_path / "5" / CATALOGUE).write_bytes(b"")
    assert load_incumbent(store, artefact.manifest) is None
