"""Checkpoints: what a killed retraining has to go on from, in safetensors and JSON.

A checkpoint is a directory of two files. `<nanoseconds>.safetensors` has the tensors, and `checkpoint.json`, written
last and put in place by a rename, names it with its size and SHA-256. So whenever a process dies, or the power goes,
there is the checkpoint before or the new one, whole.

A retraining has phases, one `fit` each. A checkpoint holds the phases that are finished and the one under way.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT: Final = 1
MANIFEST: Final = "checkpoint.json"

_log = structlog.get_logger()


@dataclass(frozen=True)
class Snapshot:
    """Where a training stands."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    """What JSON can say."""


class Checkpoint:
    """The checkpoint of one retraining, read when this is made, and written when it is due."""

    def __init__(self, directory: Path, every_s: float) -> None:
        """One that cannot be read is removed, with a line in the log: the training then starts anew.

        Args:
            directory: of this retraining alone; made by the first write.
            every_s: seconds from one write to the next; 0 never writes.
        """
        self._directory, self._every_s = directory, every_s
        self.offsets: dict[str, int] = {}
        """For each partition of the log, the first offset that is not trained on; as it was, if there was a one."""
        self._phases: dict[str, Snapshot] = {}
        self._written = time.monotonic()
        if not (directory / MANIFEST).exists():
            return  # killed before the first one was in place, at most
        try:
            self._read()
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            _log.warning("checkpoint cannot be read: starting anew", directory=str(directory), error=str(error))
            self.remove()

    @property
    def found(self) -> bool:
        """Whether there is something to go on from."""
        return bool(self._phases)

    def phase(self, name: str) -> "Phase":
        """One fit of this retraining."""
        return Phase(self, name)

    def remove(self) -> None:
        """Forget the phases, on the disk as well; `offsets` still say what is read now."""
        self._phases = {}
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _due(self) -> bool:
        return 0 < self._every_s <= time.monotonic() - self._written

    def _read(self) -> None:
        manifest = json.loads((self._directory / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, must be {FORMAT}")
        path = self._directory / manifest["file"]
        found = [path.stat().st_size, _sha256(path)]
        if found != [manifest["size"], manifest["sha256"]]:
            raise ValueError(f"{path.name} has {found[0]} bytes with SHA-256 {found[1]}, not what {MANIFEST} says")
        tensors = load_file(path)
        self._phases = {
            name: Snapshot(
                {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.partition("/")[0] == name},
                facts,
            )
            for name, facts in manifest["phases"].items()
        }
        self.offsets = manifest["offsets"]
        _log.info("going on from a checkpoint", directory=str(self._directory), age_s=round(_age_s(path)))

    def _write(self) -> None:
        """Put a new checkpoint in place of the one before.

        Raises:
            OSError, SafetensorError: the directory cannot be written.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{time.time_ns()}.safetensors"
        tensors = {f"{name}/{key}": tensor for name, at in self._phases.items() for key, tensor in at.tensors.items()}
        try:
            self._put(path, {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()})
        except (OSError, SafetensorError):
            path.unlink(missing_ok=True)  # or a full disk would get one more with each try
            raise
        _to_disk(self._directory)
        for old in self._directory.glob("*.safetensors"):
            if old != path:
                old.unlink()
        self._written = time.monotonic()

    def _put(self, path: Path, tensors: dict[str, Tensor]) -> None:
        """Write both files, up to the rename that makes them the checkpoint."""
        save_file(tensors, path)
        manifest = {
            "format": FORMAT,
            "file": path.name,
            "size": path.stat().st_size,
            "sha256": _sha256(path),
            "offsets": self.offsets,
            "phases": {name: at.facts for name, at in self._phases.items()},
        }
        new = self._directory / f"{MANIFEST}.new"
        new.write_text(json.dumps(manifest, indent=1))
        for written in (path, new):
            _to_disk(written)
        new.replace(self._directory / MANIFEST)


class Phase:
    """One fit's part of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint, self._name = checkpoint, name

    @property
    def saved(self) -> Snapshot | None:
        """Where this phase was, or None to begin it."""
        return self._checkpoint._phases.get(self._name)

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return self._checkpoint._due

    def write(self, snapshot: Snapshot) -> None:
        """Write a checkpoint with this phase as it stands now; where that fails, a line in the log says so."""
        self._checkpoint._phases[self._name] = snapshot
        try:
            self._checkpoint._write()
        except (OSError, SafetensorError) as error:
            self._checkpoint._written = time.monotonic()
            directory = str(self._checkpoint._directory)
            _log.warning("checkpoint cannot be written: training goes on", directory=directory, error=str(error))

    def finish(self, snapshot: Snapshot) -> None:
        """Keep the end of this phase for the checkpoints of the next; its tensors must not change any more."""
        self._checkpoint._phases[self._name] = snapshot

    def drop(self, why: str) -> None:
        """Forget a checkpoint that is not of this training, with a line in the log."""
        _log.warning("checkpoint does not fit: starting anew", directory=str(self._checkpoint._directory), error=why)
        self._checkpoint.remove()


def key_of(facts: Mapping[str, Any]) -> str:
    """A directory's name for a retraining that these settings describe."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _to_disk(path: Path) -> None:
    """Wait until a file, or a directory's list of names, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
