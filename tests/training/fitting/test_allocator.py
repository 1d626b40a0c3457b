import ctypes

import pytest

from training.fitting.allocator import keep_freed_memory


def test_a_system_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoGlibc:
        def __init__(self, _name: None) -> None: ...

    monkeypatch.setattr(ctypes, "CDLL", NoGlibc)
    keep_freed_memory()
