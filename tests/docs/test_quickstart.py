"""docs/quickstart.md as written, from an empty folder to recommendations and a report."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from doc_commands import ROOT, commands

JSON_FILES = ("histories.jsonl", "new_items.jsonl")
TEXT = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")
STEPS = [
    "doctor", "example", "prepare", "train", "train", "recommend", "recommend", "recommend", "similar", "search",
    "evaluate", "report",
]  # fmt: skip


def own_commands():
    """Return the console script's commands of the page, in order."""
    return [argv[1:] for _, argv in commands(TEXT) if argv[0] == "recbole-blair"]


def fences(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_page_has_the_steps_and_shows_its_files():
    assert [argv[0] for argv in own_commands()] == STEPS
    shown = {**dict(zip(("log.csv", "items.csv"), fences("csv"))), **dict(zip(JSON_FILES, fences("json")))}
    assert len(shown) == 4
    for name, text in shown.items():
        assert (ROOT / "examples" / name).read_text(encoding="utf-8").startswith(text), name


def test_the_readmes_quick_start_has_the_commands_of_the_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Quick start")[1].split("##")[0]
    page = [[word for word in argv if word != "--save_ranks=True"] for _, argv in commands(TEXT)]
    wanted = [argv for _, argv in commands(readme)]
    assert [argv[1] for argv in wanted] == ["example", "prepare", "train", "recommend"]
    assert all(argv in page for argv in wanted)


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    printed = {}
    for argv in own_commands():
        command = [sys.executable, "-m", "recbole_blair", *argv]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
        # the doctor's status is 1 where this machine lacks something; that is its business, not the page's
        assert done.returncode == 0 or argv[0] == "doctor", f"{' '.join(argv)}\n{done.stderr[-2000:]}"
        printed.setdefault(argv[0], []).append(done.stdout)
    assert "#Items 120" in printed["prepare"][0] and "users 450" in printed["prepare"][0]
    known = {line.split(",")[0] for line in (tmp_path / "items.csv").read_text(encoding="utf-8").splitlines()[1:]}
    bought = [line.split(",")[1] for line in (tmp_path / "log.csv").read_text().splitlines() if line.startswith("c1,")]
    shown = re.findall(r"^ +\d+ +\d\.\d+ +(p\d+)", printed["recommend"][0].partition("c2")[0], re.MULTILINE)
    assert len(shown) == 5 and set(shown) <= known - set(bought)
    assert printed["recommend"][1].count("lamp") == 5
    assert printed["similar"][0].count("lamp") >= 3 and printed["search"][0].count("green lamp") >= 3
    (line,) = (tmp_path / "top.jsonl").read_text(encoding="utf-8").splitlines()
    found = json.loads(line)
    assert found["user_id"] == "visitor" and len(found["items"]) == 5
    assert {item["item_id"] for item in found["items"]} <= known | {"n1"}
    metrics = {name: json.loads((tmp_path / f"runs/shop/{name}/metrics.json").read_text()) for name in ("text", "ids")}
    chance = 10 / 120
    assert metrics["text"]["test"]["recall@10"] > 1.5 * chance  # it has learnt what a customer likes
    assert f"{metrics['text']['test']['recall@10']:.4f}"[1:] in printed["evaluate"][0]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "UniSRecBlair" in page and "SASRec" in page and "shop" in page
