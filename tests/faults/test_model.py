"""The model of the runs."""

import sys

import numpy as np
import pytest

from ops.chaos.model import artefact
from schemas.settings import Refused
from stream_app.loading import load_model

ITEMS = [f"item-{number}" for number in range(20)]


def test_a_worker_can_load_every_version_and_versions_differ():
    first, second = (load_model(*artefact(version, ITEMS)) for version in (1, 2))
    rows = np.arange(3, dtype=np.int32)[:, None]
    states = np.zeros((3, first.state_floats), np.float32)
    assert (first.version, second.version) == (1, 2)
    assert not np.allclose(first.advance(states, rows)[0], second.advance(states, rows)[0])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "onnx.parser", raising=False)
    with pytest.raises(Refused, match="the package onnx is missing"):
        artefact(1, ITEMS)
