import json
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from schemas.artefact import (
    CATALOGUE,
    ITEMS,
    MAX_MANIFEST_BYTES,
    PROBES,
    STEP,
    File,
    Manifest,
    Probes,
    build_catalogue,
    decode_catalogue,
    decode_manifest,
    decode_probes,
    encode_catalogue,
    encode_manifest,
    encode_probes,
)
from schemas.item import item_hash
from schemas.malformed import Malformed

FILE = {"sha256": "0" * 64, "size": 1}
FIELDS: dict[str, Any] = {
    "version": 1_700_000_000_000,
    "path": "1700000000000",
    "files": dict.fromkeys((STEP, CATALOGUE, ITEMS, PROBES), FILE),
    "items": 3,
    "width": 4,
    "state": 8,
}
IDS = ["a", "b", "c"]
EMBEDDING = np.arange(12, dtype=np.float32).reshape(3, 4)
BIAS = np.arange(3, dtype=np.float32)
PROBE_ARRAYS: dict[str, Any] = {
    "rows": np.array([[0, 1], [2, -1]], np.int32),
    "query": np.zeros((2, 4), np.float32),
    "top": np.array([[1], [0]], np.int32),
}


def manifest_json(**changes: object) -> bytes:
    return json.dumps(FIELDS | changes).encode()


def test_manifest_round_trip():
    manifest = Manifest(
        **FIELDS, offsets={"0": 12}, parameters={"width": 4, "name": "é"}, metrics={"ndcg": 0.25}, libraries={"a": "1"}
    )
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_manifest_may_leave_out_its_provenance():
    manifest = decode_manifest(manifest_json())
    assert (manifest.format, manifest.offsets, manifest.metrics) == (1, {}, {})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("format", 2),
        ("version", 0),
        ("version", 1 << 64),
        ("version", "new"),
        ("path", ""),
        ("path", "x" * 1025),
        ("items", 0),
        ("items", 1 << 31),
        ("width", -1),
        ("width", 1 << 16),
        ("state", 1 << 16),
        ("files", {f"f{number}.bin": FILE for number in range(33)}),
        ("state", None),
        ("offsets", {"0": "end"}),
        ("metrics", {"ndcg": None}),
    ],
)
def test_wrong_fields_of_a_manifest_are_named(field: str, wrong: object):
    with pytest.raises(Malformed) as raised:
        decode_manifest(manifest_json(**{field: wrong}))
    assert raised.value.field.startswith(f"manifest.{field}")


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_required_fields_of_a_manifest_are_required(field: str):
    with pytest.raises(Malformed) as raised:
        decode_manifest(json.dumps({name: value for name, value in FIELDS.items() if name != field}).encode())
    assert raised.value.field == f"manifest.{field}"


@pytest.mark.parametrize("missing", [STEP, CATALOGUE, ITEMS, PROBES])
def test_manifest_must_name_every_file(missing: str):
    files = {name: FILE for name in FIELDS["files"] if name != missing}
    with pytest.raises(Malformed, match=f"files lacks {missing}"):
        decode_manifest(manifest_json(files=files))


@pytest.mark.parametrize("name", ["../step.onnx", "/etc/passwd", "a/b.onnx", "step", ".onnx", "Step.onnx"])
def test_file_names_are_plain(name: str):
    with pytest.raises(Malformed, match="string should match pattern"):
        decode_manifest(manifest_json(files=FIELDS["files"] | {name: FILE}))


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 63}, {"sha256": "G" * 64}, {"size": -1}, {"size": 10**15}])
def test_file_needs_a_digest_and_a_size(wrong: dict[str, object]):
    with pytest.raises(Malformed, match=r"manifest\.files\.step\.onnx"):
        decode_manifest(manifest_json(files=FIELDS["files"] | {STEP: FILE | wrong}))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_metric_that_json_cannot_hold_is_refused_before_it_is_written(number: float):
    with pytest.raises(ValueError, match="finite number"):
        Manifest(**FIELDS, metrics={"ndcg": number})


def test_a_manifest_that_no_topic_takes_is_neither_written_nor_read():
    large = Manifest(**FIELDS, parameters={"text": "x" * MAX_MANIFEST_BYTES})
    with pytest.raises(Malformed, match=f"manifest: must be at most {MAX_MANIFEST_BYTES} bytes"):
        encode_manifest(large)
    with pytest.raises(Malformed, match=f"manifest: must be at most {MAX_MANIFEST_BYTES} bytes"):
        decode_manifest(large.model_dump_json().encode())


@given(st.binary(max_size=50) | st.text().map(str.encode))
def test_random_bytes_are_no_manifest(value: bytes):
    with pytest.raises(Malformed):
        decode_manifest(value)


def test_files_cannot_change():
    with pytest.raises(ValueError, match="frozen"):
        File(**FILE).size = 2


def test_catalogue_round_trip():
    catalogue = build_catalogue(EMBEDDING, BIAS, IDS)
    decoded = decode_catalogue(*encode_catalogue(catalogue))
    assert list(decoded.item_ids) == IDS
    for array in ("embedding", "bias", "hashes"):
        np.testing.assert_array_equal(getattr(decoded, array), getattr(catalogue, array), strict=True)


def test_catalogue_holds_the_hashes_of_its_ids():
    assert build_catalogue(EMBEDDING, BIAS, IDS).hashes.tolist() == [item_hash(item_id) for item_id in IDS]


@pytest.mark.parametrize(
    ("embedding", "bias", "ids"),
    [
        (EMBEDDING, BIAS, ["a", "b"]),
        (EMBEDDING[:2], BIAS, IDS),
        (EMBEDDING, BIAS[:2], IDS),
        (EMBEDDING, BIAS[:, None], IDS),
        (EMBEDDING[:, :, None], BIAS, IDS),
        (EMBEDDING[:0], BIAS[:0], []),
    ],
)
def test_catalogue_whose_shapes_do_not_fit_is_malformed(embedding: Any, bias: Any, ids: list[str]):
    with pytest.raises(Malformed, match=CATALOGUE):
        build_catalogue(embedding, bias, ids)


def test_two_items_with_one_hash_are_refused_when_a_catalogue_is_built():
    with pytest.raises(Malformed, match="must differ for every item"):
        build_catalogue(EMBEDDING, BIAS, ["a", "b", "a"])


def test_two_items_with_one_hash_are_refused_when_a_catalogue_is_read():
    arrays = save({"embedding": EMBEDDING, "bias": BIAS, "hash": np.array([1, 2, 1], np.uint64)})
    with pytest.raises(Malformed, match="must differ for every item"):
        decode_catalogue(arrays, msgpack.packb(IDS))


@pytest.mark.parametrize(
    "ids",
    [
        b"",
        b"\xc1",
        b"\x81\x90\x01",
        *map(msgpack.packb, ("abc", {"a": 1}, ["a", 1, "c"], ["a", "", "c"], ["a", "x" * 257, "c"])),
    ],
)
def test_item_ids_must_be_a_list_of_strings(ids: bytes):
    arrays, _ = encode_catalogue(build_catalogue(EMBEDDING, BIAS, IDS))
    with pytest.raises(Malformed, match=ITEMS):
        decode_catalogue(arrays, ids)


@pytest.mark.parametrize("array", ["embedding", "bias", "hash"])
@pytest.mark.parametrize("change", ["missing", np.float64, np.int64])
def test_catalogue_without_an_array_of_the_right_type_is_malformed(array: str, change: Any):
    arrays: dict[str, Any] = {"embedding": EMBEDDING, "bias": BIAS, "hash": np.arange(3, dtype=np.uint64)}
    if change == "missing":
        del arrays[array]
    else:
        arrays[array] = arrays[array].astype(change)
    with pytest.raises(Malformed) as raised:
        decode_catalogue(save(arrays), msgpack.packb(IDS))
    assert raised.value.field == f"{CATALOGUE}.{array}"


@pytest.mark.parametrize("rows", [4, 10**12])
def test_a_catalogue_that_claims_more_rows_than_it_has_takes_no_memory_for_them(rows: int):
    arrays, ids = encode_catalogue(build_catalogue(EMBEDDING, BIAS, IDS))
    length = int.from_bytes(arrays[:8], "little")
    header = json.loads(arrays[8 : 8 + length])
    header["embedding"]["shape"] = [rows, 4]
    header["embedding"]["data_offsets"] = [0, 16 * rows]
    claimed = json.dumps(header).encode()
    with pytest.raises(Malformed, match=CATALOGUE):
        decode_catalogue(len(claimed).to_bytes(8, "little") + claimed + arrays[8 + length :], ids)


@pytest.mark.parametrize("claim", [b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 10_000])
def test_item_ids_that_claim_more_than_there_is_are_malformed(claim: bytes):
    arrays, _ = encode_catalogue(build_catalogue(EMBEDDING, BIAS, IDS))
    with pytest.raises(Malformed, match=ITEMS):
        decode_catalogue(arrays, claim)


def test_probes_round_trip():
    probes = decode_probes(encode_probes(Probes(**PROBE_ARRAYS)))
    for name, array in PROBE_ARRAYS.items():
        np.testing.assert_array_equal(getattr(probes, name), array, strict=True)


@pytest.mark.parametrize("name", ["rows", "query", "top"])
@pytest.mark.parametrize("change", [lambda a: a[:1], lambda a: a[0], lambda a: a[:, :0], lambda a: a[None]])
def test_probes_whose_shapes_do_not_fit_are_malformed(name: str, change: Any):
    probes = Probes(**PROBE_ARRAYS | {name: np.ascontiguousarray(change(PROBE_ARRAYS[name]))})
    with pytest.raises(Malformed, match="none of them empty"):
        decode_probes(encode_probes(probes))


def test_no_probe_at_all_is_malformed():
    with pytest.raises(Malformed, match="none of them empty"):
        decode_probes(encode_probes(Probes(*(array[:0] for array in PROBE_ARRAYS.values()))))


def test_type_that_numpy_lacks_is_malformed():
    header = json.dumps({"rows": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    with pytest.raises(Malformed, match="BF16"):
        decode_probes(len(header).to_bytes(8, "little") + header + bytes(2))


@given(st.data())
def test_damaged_arrays_are_read_or_malformed(data: st.DataObject):
    value = bytearray(encode_probes(Probes(**PROBE_ARRAYS)))
    value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    del value[data.draw(st.integers(0, len(value))) :]
    with suppress(Malformed):
        assert len(decode_probes(bytes(value)).rows)
