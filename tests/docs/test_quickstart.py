"""docs/quickstart.md as written, from two CSV files of a made-up shop to recommendations and a report."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from doc_commands import ROOT, commands
from shop import write_shop

TEXT = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")
STEPS = ["doctor", "prepare", "train", "train", "recommend", "recommend", "evaluate", "report"]


def own_commands():
    """Return the console script's commands of the page, in order."""
    return [argv[1:] for _, argv in commands(TEXT) if argv[0] == "recbole-blair"]


def fences(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_page_has_the_steps_and_its_files_those_columns(tmp_path):
    assert [argv[0] for argv in own_commands()] == STEPS
    write_shop(tmp_path)
    for name, shown in zip(("log.csv", "items.csv"), fences("csv")):
        written = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        assert written[0] == shown.splitlines()[0] and set(shown.splitlines()) <= set(written)


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path):
    write_shop(tmp_path)
    for name, text in zip(("histories.jsonl", "new_items.jsonl"), fences("json")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    printed = []
    for argv in own_commands():
        command = [sys.executable, "-m", "recbole_blair", *argv]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
        # the doctor's status is 1 where this machine lacks something; that is its business, not the page's
        assert done.returncode == 0 or argv[0] == "doctor", f"{' '.join(argv)}\n{done.stderr[-2000:]}"
        printed.append(done.stdout)
    assert "#Items 120" in printed[1] and "users 450" in printed[1]
    known = {line.split(",")[0] for line in (tmp_path / "items.csv").read_text(encoding="utf-8").splitlines()[1:]}
    bought = [line.split(",")[1] for line in (tmp_path / "log.csv").read_text().splitlines() if line.startswith("c1,")]
    shown = re.findall(r"^ +\d+ +\d\.\d+ +(p\d+)", printed[4].partition("c2")[0], re.MULTILINE)
    assert len(shown) == 5 and set(shown) <= known - set(bought)
    (line,) = (tmp_path / "top.jsonl").read_text(encoding="utf-8").splitlines()
    found = json.loads(line)
    assert found["user_id"] == "visitor" and len(found["items"]) == 5
    assert {item["item_id"] for item in found["items"]} <= known | {"n1"}
    metrics = {name: json.loads((tmp_path / f"runs/shop/{name}/metrics.json").read_text()) for name in ("text", "ids")}
    chance = 10 / 120
    assert metrics["text"]["test"]["recall@10"] > 1.5 * chance  # it has learnt what a customer likes
    assert f"{metrics['text']['test']['recall@10']:.4f}"[1:] in printed[6]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "UniSRecBlair" in page and "SASRec" in page and "shop" in page
