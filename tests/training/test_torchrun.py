import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.artefact_store import ArtefactStore
from schemas.settings import DONE, run_command
from training.run import Run


@pytest.mark.timeout(400)
def test_two_processes_that_torchrun_starts_train_the_model_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "ring.inter"
    rows = [f"u{user}\ti{(user + time) % 7}\t{time}\n" for user in range(12) for time in range(10 + user)]
    source.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))
    common = ["--from-inter", str(source), "--epochs=2", "--batch=4", "--dropout=0", "--checkpoint-every=0s", "--json"]

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = [*common, "--threads=2", f"--artefact-store={tmp_path / 'two'}"]
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as torchrun sets it, but without telling so
    ended = subprocess.run(
        [*torchrun, "-m", "training", "run", *options], cwd=root, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()  # of rank 0 alone
    two = json.loads(line)
    assert [manifest.version for manifest in ArtefactStore(str(tmp_path / "two")).manifests()] == [two["version"]]

    assert run_command("training run", Run, [*common, "--threads=1", f"--artefact-store={tmp_path / 'one'}"]) == DONE
    one = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(one["curves"]["loss"]) == 2
    for curve in ("loss", "catch_up_loss"):
        assert two["curves"][curve] == pytest.approx(one["curves"][curve], rel=1e-3)
