"""A model as it is stored and announced: a directory of files, described by a manifest that is written last.

    step.onnx              (state f32[B,S], x f32[B,D]) -> (next_state f32[B,S], query f32[B,D])
    chunk.onnx             the same for C steps at once, x f32[B,C,D], the query after the last one; may be missing
    catalogue.safetensors  embedding f32[N,D], bias f32[N], hash u64[N]
    items.msgpack          the N item ids, in row order
    probes.safetensors     rows i32[P,L] (right padded with -1), query f32[P,D], top i32[P,K]
    weights.safetensors    the other parameters by name, for training to go on from; workers do not need it
    manifest.json

The score of an item is its embedding times the query, plus its bias. A probe is a history with the query and the best
rows that the graphs must give for it, folded from a state of zeros: a worker runs them before it serves a model.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

import msgpack
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.numpy import save

from schemas.item import item_hash
from schemas.item_ids import ItemIds
from schemas.malformed import Malformed

CHAMPION: Final = "champion"
"""key on the topic `models` of the model that workers serve"""

MANIFEST: Final = "manifest.json"
STEP: Final = "step.onnx"
CHUNK: Final = "chunk.onnx"
CATALOGUE: Final = "catalogue.safetensors"
ITEMS: Final = "items.msgpack"
PROBES: Final = "probes.safetensors"
WEIGHTS: Final = "weights.safetensors"

_MAX_HEADER_BYTES: Final = 1 << 16
"""of a file of a few arrays"""
_TYPES: Final = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U64": "<u8", "U32": "<u4"}
"""numpy's names of those that may stand in such a file"""

MAX_MANIFEST_BYTES: Final = 1_000_000
"""what a topic takes by default"""

Version = Annotated[int, Field(gt=0, lt=1 << 64)]
Rows = Annotated[int, Field(gt=0, lt=1 << 31)]
Floats = Annotated[int, Field(gt=0, lt=1 << 16)]
"""as many as a state record can count"""


class File(BaseModel):
    """A file of an artefact."""

    model_config = ConfigDict(frozen=True)

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=1 << 40)]
    """bytes"""


class Gate(BaseModel):
    """Whether a model may become the champion, and what that was judged by."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    verdict: Literal["accepted", "rejected", "uncompared"]
    """accepted and rejected: compared with the champion; uncompared: not, and published all the same"""
    reason: str
    champion: Version | None = None
    """the model that it was compared with"""
    events: int = 0
    """held-out events that both ranked"""
    users: int = 0
    """whose events these are"""
    candidate_ndcg_at_10: float | None = None
    champion_ndcg_at_10: float | None = None
    difference: float | None = None
    """candidate's minus champion's"""
    low: float | None = None
    """of the 95 % interval of the difference"""
    high: float | None = None


class Manifest(BaseModel):
    """What a model is, where its files are, and where it came from. Published on the topic `models` as JSON."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)  # JSON has neither: it would not decode again

    format: Literal[1] = 1
    version: Version
    """UTC milliseconds of the export"""
    path: Annotated[str, Field(min_length=1, max_length=1024)]
    """of the artefact's directory, relative to the artefact store"""
    files: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+\.[a-z]+$")], File], Field(max_length=32)]
    items: Rows
    """N, rows of the catalogue"""
    width: Floats
    """D, floats of a query"""
    state: Floats
    """S, floats of a state"""
    offsets: dict[str, int] = {}
    """for each partition of `interactions`, the first offset that was not trained on"""
    trained_until_ms: int | None = None
    """UTC milliseconds of the newest event that was trained on; no event after it was"""
    parameters: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    gate: Gate | None = None
    curves: dict[str, list[float]] = {}
    """what happened epoch by epoch, by name: loss, learning rate, validation metrics"""
    libraries: dict[str, str] = {}

    @model_validator(mode="after")
    def _has_every_file(self) -> Self:
        missing = {STEP, CATALOGUE, ITEMS, PROBES} - self.files.keys()
        if missing:
            raise ValueError(f"files lacks {', '.join(sorted(missing))}")
        return self


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items a model knows, by row."""

    embedding: NDArray[np.float32]
    """[N, D]"""
    bias: NDArray[np.float32]
    """[N]"""
    hashes: NDArray[np.uint64]
    """[N], see `schemas.item.item_hash`"""
    item_ids: Sequence[str]
    """[N]"""


@dataclass(frozen=True, slots=True)
class Probes:
    """Histories with the answers that the graphs must give."""

    rows: NDArray[np.int32]
    """[P, L] catalogue rows, oldest first, right padded with -1"""
    query: NDArray[np.float32]
    """[P, D] after the last row"""
    top: NDArray[np.int32]
    """[P, K] rows of the best scores, best first, nothing masked"""


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON.

    Raises:
        Malformed: it is too large for a topic.
    """
    return _bounded(manifest.model_dump_json(indent=1).encode())


def decode_manifest(value: bytes) -> Manifest:
    """Decode a manifest.

    Raises:
        Malformed: too large, or not a manifest of this format; the first broken rule is named.
    """
    try:
        return Manifest.model_validate_json(_bounded(value))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(("manifest", *map(str, first["loc"])))
        raise Malformed(field, first["input"], first["msg"].lower()) from None


def _bounded(manifest: bytes) -> bytes:
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise Malformed("manifest", f"{len(manifest)} bytes", f"must be at most {MAX_MANIFEST_BYTES} bytes")
    return manifest


def build_catalogue(embedding: NDArray[np.float32], bias: NDArray[np.float32], item_ids: Sequence[str]) -> Catalogue:
    """Join the arrays of a catalogue with the hashes of its ids.

    Raises:
        Malformed: shapes that do not fit, or two ids with one hash.
    """
    hashes = np.fromiter(map(item_hash, item_ids), np.uint64, len(item_ids))
    return _checked(
        Catalogue(np.ascontiguousarray(embedding, "<f4"), np.ascontiguousarray(bias, "<f4"), hashes, item_ids)
    )


def encode_catalogue(catalogue: Catalogue) -> tuple[bytes, bytes]:
    """The catalogue as the files CATALOGUE and ITEMS."""
    arrays: dict[str, NDArray[Any]] = {
        "embedding": catalogue.embedding,
        "bias": catalogue.bias,
        "hash": catalogue.hashes,
    }
    return save(arrays), msgpack.packb(list(catalogue.item_ids))


def decode_catalogue(arrays: bytes, item_ids: bytes) -> Catalogue:
    """Decode the files CATALOGUE and ITEMS.

    Raises:
        Malformed: missing arrays, wrong types, or shapes that do not fit.
    """
    loaded = _load(CATALOGUE, arrays, {"embedding": np.float32, "bias": np.float32, "hash": np.uint64})
    ids = ItemIds.decode(ITEMS, item_ids)
    return _checked(Catalogue(loaded["embedding"], loaded["bias"], loaded["hash"], ids))


def encode_probes(probes: Probes) -> bytes:
    """The probes as the file PROBES."""
    return save({"rows": probes.rows, "query": probes.query, "top": probes.top})


def decode_probes(value: bytes) -> Probes:
    """Decode the file PROBES.

    Raises:
        Malformed: missing arrays, wrong types, or shapes that do not fit.
    """
    loaded = _load(PROBES, value, {"rows": np.int32, "query": np.float32, "top": np.int32})
    probes = Probes(loaded["rows"], loaded["query"], loaded["top"])
    shapes = [array.shape for array in (probes.rows, probes.query, probes.top)]
    if any(len(shape) != 2 or 0 in shape or shape[0] != shapes[0][0] for shape in shapes):
        raise Malformed(PROBES, shapes, "must be [P, L], [P, D] and [P, K], none of them empty")
    return probes


def _checked(catalogue: Catalogue) -> Catalogue:
    n = len(catalogue.item_ids)
    shapes = [catalogue.embedding.shape[:1], catalogue.bias.shape, catalogue.hashes.shape]
    if n == 0 or catalogue.embedding.ndim != 2 or shapes != [(n,)] * 3:
        raise Malformed(CATALOGUE, shapes, f"must hold [N, D], [N] and [N] for N = {n} > 0 item ids")
    ascending = np.sort(catalogue.hashes)  # np.unique would keep all other threads waiting
    if (ascending[1:] == ascending[:-1]).any():
        raise Malformed("hash", f"{n} items", "must differ for every item: change an id that collides")
    return catalogue


def _load(file: str, value: bytes, types: dict[str, type[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of a file in the form of safetensors, as views of `value`.

    The package's own reader copies them while no other thread can run: a quarter of a second at a million items.
    """
    try:
        arrays = dict(_views(value))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Malformed(file, value, f"must be safetensors of numpy's types ({error!r})") from None
    for name, dtype in types.items():
        if name not in arrays or arrays[name].dtype != dtype:
            raise Malformed(f"{file}.{name}", arrays.get(name, np.empty(0)).dtype, f"must be {dtype.__name__}")
    return arrays


def _views(value: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    """Its header is a u64 size and a JSON object: dtype, shape and the first and last byte of each array behind it."""
    header_size = int.from_bytes(value[:8], "little")
    data_at = 8 + header_size
    if header_size > _MAX_HEADER_BYTES or data_at > len(value):
        raise ValueError(f"a header of {header_size} bytes")
    for name, tensor in json.loads(value[8:data_at]).items():
        if name == "__metadata__":
            continue
        dtype, shape, (start, end) = np.dtype(_TYPES[tensor["dtype"]]), tensor["shape"], tensor["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
            raise ValueError(f"{name} has shape {shape} and offsets {start}, {end}")
        count = math.prod(shape)
        if end - start != count * dtype.itemsize or data_at + end > len(value):
            raise ValueError(f"{name} has {end - start} bytes for shape {shape}")
        yield name, np.frombuffer(value, dtype, count, data_at + start).reshape(shape)
