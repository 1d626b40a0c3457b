"""MovieLens 100K out of RecBole's wheel; the package index is a local folder or nothing."""

import zipfile
from pathlib import Path

import pytest

from ops.distribution import Unavailable
from ops.movielens import movielens


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all the package index there is; the cache is empty as well."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(index))
    return index


@pytest.mark.usefixtures("index")
def test_without_the_package_the_error_is_one_line_that_names_it():
    with pytest.raises(Unavailable, match=r"recbole==1\.2\.1 .*ml-100k") as raised:
        movielens()
    assert "\n" not in str(raised.value)


def test_other_files_than_expected_are_refused(index: Path):
    make_wheel(index)
    with pytest.raises(Unavailable, match=r"other ml-100k files .* SHA-256 differ"):
        movielens()


def make_wheel(index: Path) -> None:
    """A wheel with RecBole's name and version, and one line instead of the data."""
    info = "recbole-1.2.1.dist-info"
    with zipfile.ZipFile(index / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", "user_id:token\n")
        wheel.writestr("recbole/dataset_example/ml-100k/ml-100k.item", "item_id:token\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
