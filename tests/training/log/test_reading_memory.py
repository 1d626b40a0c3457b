"""What a large log costs: archived, read, held out and batched in a process of its own.

`EVENTS=10000000 pytest -s tests/training/log/test_reading_memory.py` gives the figures of docs/training.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EVENTS = int(os.environ.get("EVENTS", 300_000))
BYTES_PER_EVENT = 400
"""More than is needed: the columns of a partition twice, its event ids, and what sorting takes."""

READ_SPLIT_AND_BATCH = """
import json, resource, sys, time
import numpy as np
from schemas.event import Event, encode
from tests.training.records import Record, messages
from training.log.archive import Archive
from training.log.columns import SCHEMA, decoded, gather
from training.log.holdout import newest
from training.log.windows import collate, cut, shuffled

PARTITIONS, CHUNK = 4, 20_000
directory, events = sys.argv[1], int(sys.argv[2])
users = max(100, events // 50)
random = np.random.default_rng(0)
archive = Archive(directory, "interactions", "an-id")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, began, wrote = peak(), time.monotonic(), 0
for partition in range(PARTITIONS):
    end = events // PARTITIONS
    for begin in range(0, end, CHUNK):
        count = min(CHUNK, end - begin)
        user, item = random.integers(0, users // PARTITIONS, count) * PARTITIONS + partition, random.zipf(1.3, count)
        records = [
            Record(f"user-{u}".encode(), encode(Event(f"user-{u}", f"item-{i % 50_000}", at, event_id=f"e{at}")), at)
            for at, u, i in zip(range(begin, begin + count), user.tolist(), item.tolist())
        ]
        for first, last in archive.missing(partition, begin, begin + count):
            archive.write(partition, first, last, decoded(messages(records[first - begin : last - begin])).table)
    archive.tidy(partition)
wrote = time.monotonic()
read = gather(archive.read(partition, events, {}) for partition in range(PARTITIONS)).histories
gathered = time.monotonic()
train = newest(read, 0.1).train
tokens = 0
for nth, windows in enumerate(shuffled(cut(train, 100, random), 256, random)):
    tokens += len(collate(read.items, windows).inputs)
    if nth == 200:
        break
print(json.dumps({
    "events": len(read.items), "users": len(read.users), "tokens": tokens, "peak_bytes": peak() - before,
    "write_s": wrote - began, "read_s": gathered - wrote, "batch_s": time.monotonic() - gathered,
}))
"""


@pytest.mark.timeout(3600 if EVENTS > 1_000_000 else 120)
def test_a_large_log_is_read_split_and_batched_in_a_few_hundred_bytes_an_event(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", READ_SPLIT_AND_BATCH, str(tmp_path / "archive"), str(EVENTS)]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    print(found)
    assert found["events"] == EVENTS // 4 * 4
    assert found["tokens"] > 0
    assert found["peak_bytes"] < 100_000_000 + BYTES_PER_EVENT * EVENTS
