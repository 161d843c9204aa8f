"""The whole smoke suite in a few minutes; killed five times at random moments, it ends with the same numbers."""

import os
import random
import sys
from pathlib import Path

import pytest
from kill_points.killing import Moment, Runner
from kill_points.long_commands import read_results

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="process groups of Linux")]

SEED = int(os.environ.get("KILL_SEED", "20"))
KILLS = 5
ROOT = Path(__file__).resolve().parents[2]
BENCH = (
    "bench --suite=smoke --plm=tfidf-svd,tiny --device=cpu --threads=1 --samples=500 --output_dir=out --data_path=d "
    "--raw_dir=raw --quiet"
)


def bench(runner, folder, moment=None):
    """Run the bench in a folder."""
    environment = {
        "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    return runner.run(BENCH.split(), folder, folder.with_suffix(".log"), environment, moment)


def test_five_kills_change_no_number(tmp_path, tiny_encoder):
    runner, draw = Runner(), random.Random(SEED)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny").symlink_to(tiny_encoder)
    whole = bench(runner, tmp_path / "whole")
    assert whole.status == 0, (tmp_path / "whole.log").read_text()[-3000:]
    assert whole.seconds < 300  # on two cores: what CI can do with each change
    moments = sorted(draw.randrange(1, max(2, whole.changes // 2)) for _ in range(KILLS))
    for change in moments:  # each run begins where the one before it was killed
        bench(runner, tmp_path / "killed", Moment(change))
    ending = bench(runner, tmp_path / "killed")
    assert ending.status == 0, (tmp_path / "killed.log").read_text()[-3000:]
    wanted, found = (read_results(tmp_path / name / "out") for name in ("whole", "killed"))
    assert found.keys() == wanted.keys()
    differ = [path for path in wanted if found[path] != wanted[path]]
    assert differ == [], f"killed before the changes {moments}"
