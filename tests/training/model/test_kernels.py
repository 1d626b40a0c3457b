"""How kernels are built; what they compute is proved beside the layers, the scan and the softmax."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from training.model import kernels
from training.model.layers import Gelu


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.library.cache_clear()
    yield
    kernels.library.cache_clear()


@pytest.fixture
def compiler() -> None:
    if kernels.library() is None:
        pytest.skip("no C++ compiler")
    kernels.library.cache_clear()


@pytest.mark.usefixtures("compiler")
def test_kernels_are_compiled_once(tmp_path: Path) -> None:
    (built,) = (tmp_path / "lrurec-stream").iterdir()
    made = built.stat().st_mtime_ns
    assert kernels.library() is not None
    assert [path.stat().st_mtime_ns for path in built.parent.iterdir()] == [made]


@pytest.mark.usefixtures("compiler")
def test_threads_that_ask_at_the_same_time_share_one_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = next(filter(None, map(shutil.which, kernels.COMPILERS)))
    noting, notes = tmp_path / "noting", tmp_path / "notes"
    noting.write_text(f'#!/bin/sh\necho "$@" >> {notes}\nexec {real} "$@"\n')
    noting.chmod(0o755)
    monkeypatch.setenv("CXX", str(noting))
    with ThreadPoolExecutor(4) as threads:
        libraries = list(threads.map(lambda _: kernels.library(), range(4)))
    assert None not in libraries
    assert notes.read_text().count(" -o ") == 1


@pytest.mark.usefixtures("compiler")
def test_another_source_is_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    for name in (*kernels.SOURCES, *kernels.HEADERS):
        shutil.copy(kernels.FOLDER / name, sources)
    monkeypatch.setattr(kernels, "FOLDER", sources)
    assert kernels.library() is not None
    for nth, name in enumerate((*kernels.SOURCES, *kernels.HEADERS), start=2):
        (sources / name).write_text((sources / name).read_text() + "\n")
        kernels.library.cache_clear()
        assert kernels.library() is not None
        assert len(list((tmp_path / "lrurec-stream").iterdir())) == nth


@pytest.mark.parametrize("command", ["/no/such/compiler", "false"])
def test_a_compiler_that_fails_leaves_pytorch_and_no_file(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", command)
    assert kernels.library() is None
    assert "training goes on without" in capsys.readouterr().out + caplog.text
    assert list(tmp_path.rglob("*.so")) == []
    x = torch.randn(3, 5)
    torch.testing.assert_close(Gelu(0.0)(x), torch.nn.functional.gelu(x))


def test_without_a_compiler_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert kernels.library() is None
    assert not kernels.suit(torch.zeros(1))
