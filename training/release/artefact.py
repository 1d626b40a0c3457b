"""A trained model becomes an artefact: the files that workers load, and the manifest that describes them."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from safetensors import numpy as safetensors

from schemas.artefact import (
    CATALOGUE,
    CHUNK,
    ITEMS,
    PROBES,
    STEP,
    WEIGHTS,
    Gate,
    Manifest,
    build_catalogue,
    decode_catalogue,
    encode_catalogue,
    encode_probes,
)
from schemas.artefact_store import ArtefactStore, described
from training.model.lrurec import LRURec, Shape
from training.model.step_graph import export_chunk, export_step
from training.release.probes import make_probes

LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")


class NotFinite(ArithmeticError):
    """A model has weights that are not numbers."""


@dataclass(frozen=True)
class Artefact:
    """Everything that is to be written, checked and in memory."""

    files: dict[str, bytes]
    manifest: Manifest

    def write(self, store: ArtefactStore) -> None:
        """Write it, completely or not at all.

        Raises:
            FileExistsError: the store has this version already.
            OSError: the store cannot be written.
        """
        store.write(self.files, self.manifest)


def build(
    model: LRURec,
    item_ids: list[str],
    *,
    offsets: Mapping[str, int] | None = None,
    parameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    trained_until_ms: int | None = None,
    gate: Gate | None = None,
    curves: Mapping[str, list[float]] | None = None,
    version_ms: int | None = None,
) -> Artefact:
    """Make the files of a model and check them.

    Args:
        model: on the CPU; it is left in evaluation mode.
        item_ids: [N] in row order.
        offsets: for each partition of the log, the first offset that was not trained on.
        parameters: how the model was trained.
        metrics: how good it was.
        trained_until_ms: UTC milliseconds of the newest event that was trained on.
        gate: whether it may become the champion.
        curves: what happened epoch by epoch.
        version_ms: UTC milliseconds, the artefact's version and the name of its directory; now, if omitted.

    Raises:
        NotFinite: a weight is infinite or not a number.
        GraphMismatch: an exported graph does not compute what the model computes.
        Malformed: two item ids have one hash, or their number is not the model's.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise NotFinite(f"{name} has values that are not finite")
    model.eval()
    catalogue = build_catalogue(model.embedding.weight.detach().numpy(), model.bias.detach().numpy(), item_ids)
    arrays, ids = encode_catalogue(catalogue)
    step = export_step(model)
    probes = make_probes(step, catalogue.embedding, catalogue.bias, model.shape.state)
    files = {
        STEP: step,
        CHUNK: export_chunk(model),
        CATALOGUE: arrays,
        ITEMS: ids,
        PROBES: encode_probes(probes),
        WEIGHTS: _encode_weights(model),
    }
    number = time.time_ns() // 1_000_000 if version_ms is None else version_ms
    manifest = Manifest(
        version=number,
        path=str(number),
        files=described(files),
        items=model.shape.items,
        width=model.shape.width,
        state=model.shape.state,
        offsets=dict(offsets or {}),
        parameters=asdict(model.shape) | dict(parameters or {}),
        trained_until_ms=trained_until_ms,
        metrics=dict(metrics or {}),
        gate=gate,
        curves=dict(curves or {}),
        libraries={library: version(library) for library in LIBRARIES},
    )
    return Artefact(files, manifest)


def load(manifest: Manifest, files: Mapping[str, bytes]) -> LRURec:
    """The model that an artefact was built from, in evaluation mode.

    Raises:
        KeyError: the artefact has no WEIGHTS, or its parameters lack the shape.
        RuntimeError: the weights are of another shape.
    """
    model = LRURec(Shape(**{field.name: manifest.parameters[field.name] for field in fields(Shape)}))
    catalogue = decode_catalogue(files[CATALOGUE], files[ITEMS])
    arrays = {"embedding.weight": catalogue.embedding, "bias": catalogue.bias} | safetensors.load(files[WEIGHTS])
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    return model.eval()


def _encode_weights(model: LRURec) -> bytes:
    """All parameters but those that the catalogue holds."""
    arrays = {name: parameter.numpy() for name, parameter in model.state_dict().items()}
    del arrays["embedding.weight"], arrays["bias"]
    return safetensors.save(arrays)
