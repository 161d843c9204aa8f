"""docs/recommend.md as written: its commands and its Python, on the generated sample."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recommend.md"


@pytest.mark.slow
def test_the_guide_runs_as_written(tmp_path, monkeypatch):
    fences = re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    files = {"json": [text for kind, text in fences if kind == "json"]}
    commands = [line for kind, text in fences if not kind for line in text.splitlines() if line.startswith("recbole")]
    (python,) = (text for kind, text in fences if kind == "python")
    assert len(files["json"]) == 2 and len(commands) == 9 and commands[0].startswith("recbole-blair train ")
    (tmp_path / "histories.jsonl").write_text(files["json"][0])
    (tmp_path / "new_items.jsonl").write_text(files["json"][1])
    (tmp_path / "ids.txt").write_text(re.search(r'users = \["(\w+)"', python).group(1) + "\n")
    (tmp_path / "sold_out.txt").write_text("B0S6XO0DPF\nB0NEVERHERE\n")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in commands:
        argv = [sys.executable, "-m", "recbole_blair", *shlex.split(command)[1:]]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    assert {p.name for p in (tmp_path / "vectors").iterdir()} >= {"items.npy", "users.parquet", "vectors.json"}
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
