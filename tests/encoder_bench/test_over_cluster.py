"""`bench --engine=ray` on a real Ray of two CPUs: the numbers of one process, and a cell that fails stops no other."""

import json
import shutil

import numpy as np
import pytest
from bench_command import run_bench
from local_ray import REAL_RAY, two_cpus

from recbole_blair.bench.cells import choose_encoders

pytest.importorskip("ray", reason="the extra tune is not installed")
pytestmark = REAL_RAY
OWN = ("metrics", "value", "setting", "grid", "seeds", "data", "part_sha256")


def numbers_of_cells(folder):
    """Cell -> what does not depend on where and when it was made."""
    lines = [json.loads(line) for line in (folder / "out/results.jsonl").read_text().splitlines()]
    return {(one["encoder"]["id"], one["task"]): {key: one[key] for key in OWN} for one in lines}


def test_a_cluster_gives_the_same_cells(finished_bench, tiny_encoder, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    bad = shutil.copytree(tiny_encoder, tmp_path / "bad")
    weights = load_file(bad / "model.safetensors")
    save_file(
        {name: np.full_like(a, np.nan) for name, a in weights.items()}, bad / "model.safetensors", {"format": "pt"}
    )
    encoders = f"--plm=tfidf-svd,tiny={tiny_encoder},bad={bad}"
    with two_cpus():
        assert run_bench(tmp_path, encoders, "--engine=ray") == 1
    shown, said = capsys.readouterr()
    assert "6 cells in 6 tasks" in said
    name = choose_encoders(str(bad))[0].id
    for part in ("sequential/sample", "search-short/generated-short"):
        assert f"failed: {part}/{name}: " in shown and "gives NaN or infinity" in shown
    assert numbers_of_cells(tmp_path) == numbers_of_cells(finished_bench)
    with two_cpus():  # nothing is left to do, so no task is sent
        assert run_bench(tmp_path, f"--plm=tfidf-svd,tiny={tiny_encoder}", "--engine=ray") == 0
    assert "tasks" not in capsys.readouterr().err
