"""A small log with a pattern that a model can learn: every user walks a ring of items, some of them twice."""

import pytest
import torch

from training.log.histories import Histories, HistoryBuilder
from training.model.lrurec import LRURec, Shape

RING = 12


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """More threads only wait for each other on arrays as small as these."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of the archive open one of their own."""
    monkeypatch.setenv("RECOMMENDER_ARCHIVE", "")


@pytest.fixture(scope="session")
def ring() -> Histories:
    builder = HistoryBuilder()
    for time in range(40):
        for user in range(24):
            if time < 10 + user:
                builder.add(f"user {user}", f"item {(user + time) % RING}", 1000 * time)
    return builder.build()


@pytest.fixture
def small_model() -> LRURec:
    torch.manual_seed(0)
    return LRURec(Shape(items=RING, width=16, units=8)).eval()
