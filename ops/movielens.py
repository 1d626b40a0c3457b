"""MovieLens 100K (Harper and Konstan, 2015): 100,000 ratings with real times, small enough for a demo on a laptop.

GroupLens allows its use for research, and asks that it is not passed on: so it is fetched, never committed. RecBole's
wheel on PyPI carries it; a package index is reachable where the group's own server may not be.
"""

import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ops.cache import cache_dir
from ops.distribution import Unavailable

NAME: Final = "ml-100k"

_WHEEL: Final = "recbole==1.2.1"
_FOLDER: Final = Path("recbole", "dataset_example", NAME)
_SHA256: Final = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}


def movielens() -> Path:
    """Path of `ml-100k.inter`, with `ml-100k.item` beside it, fetched when they are not in the cache.

    Raises:
        Unavailable: no installer, no network, or the files are not the ones expected.
    """
    folder = cache_dir() / NAME
    if not _intact(folder):
        with tempfile.TemporaryDirectory() as temporary:
            _install(Path(temporary))
            folder.mkdir(exist_ok=True)
            for name in _SHA256:
                shutil.copyfile(Path(temporary) / _FOLDER / name, folder / name)
        if not _intact(folder):
            raise Unavailable(f"{_WHEEL} carries other {NAME} files than expected: their SHA-256 differ")
    return folder / f"{NAME}.inter"


def _intact(folder: Path) -> bool:
    files = [(folder / name, digest) for name, digest in _SHA256.items()]
    return all(path.exists() and sha256(path.read_bytes()).hexdigest() == digest for path, digest in files)


def _install(target: Path) -> None:
    """Unpack the wheel into `target`, with the installer at hand and the index that it is set up for."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(target), _WHEEL]
    installed = subprocess.run([*_installer(), *options], capture_output=True, text=True)  # noqa: S603 - our own words
    if installed.returncode:
        lines = installed.stderr.strip().splitlines() or ["no reason given"]
        reason = next((line for line in lines[::-1] if line.lower().startswith("error")), lines[-1])
        raise Unavailable(f"{_WHEEL} could not be fetched for {NAME} (is the network away?): {reason}")


def _installer() -> list[str]:
    if find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    if pip := shutil.which("pip"):
        return [pip, "install"]
    raise Unavailable(f"{NAME} comes in the wheel {_WHEEL}: pip or uv is needed to fetch it")
