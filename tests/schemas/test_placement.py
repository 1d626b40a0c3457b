from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from schemas.placement import misplaced, partition_of


@given(st.binary(min_size=1, max_size=256), st.integers(1, 10_000))
def test_a_key_is_where_kafkas_own_clients_put_it(key: bytes, partitions: int):
    assert partition_of(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


def test_a_record_in_another_partition_is_told_with_the_right_one_and_what_mends_it():
    right = partition_of(b"anna", 4)
    assert misplaced(b"anna", right, 4) is None
    wrong = misplaced(b"anna", (right + 1) % 4, 4)
    assert wrong is not None
    assert wrong.field == "partition"
    assert f"must be {right} for this key, by murmur2 over 4 partitions" in str(wrong)
    assert "murmur2_random" in str(wrong)
