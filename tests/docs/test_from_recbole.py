"""docs/from_recbole.md as written, on RecBole's example data set: its YAML, its models, a class of one's own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import recbole
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from doc_commands import ROOT, commands

TEXT = (ROOT / "docs/from_recbole.md").read_text(encoding="utf-8")
SOURCE = Path(recbole.__file__).parent / "dataset_example/ml-100k"
STEPS = ["prepare"] * 3 + ["train", "models", "train", "train", "train", "recommend"]
USERS = 60  # of the example's 943


def own_commands():
    """Return the console script's commands of the page, in order."""
    return [argv[1:] for _, argv in commands(TEXT) if argv[0] == "recbole-blair"]


def fences(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def write_example(folder):
    """Write the first users of RecBole's example data set, in RecBole's layout."""
    target = folder / "dataset/ml-100k"
    target.mkdir(parents=True)
    header, *rows = (SOURCE / "ml-100k.inter").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if int(row.split("\t")[0]) <= USERS]
    (target / "ml-100k.inter").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    (target / "ml-100k.item").write_bytes((SOURCE / "ml-100k.item").read_bytes())


def test_the_page_has_the_steps_and_its_files_are_recboles():
    assert [argv[0] for argv in own_commands()] == STEPS
    for shown, suffix in zip(fences("text"), ("inter", "item")):
        written = (SOURCE / f"ml-100k.{suffix}").read_text(encoding="utf-8").splitlines()
        assert shown.splitlines() == written[:2]
    assert all(isinstance(yaml.safe_load(text), dict) for text in fences("yaml"))


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path):
    write_example(tmp_path)
    keys, own = fences("yaml")
    model, script = fences("python")
    (tmp_path / "my.yaml").write_text(keys, encoding="utf-8")
    (tmp_path / "MeanRec.yaml").write_text(own, encoding="utf-8")
    (tmp_path / "meanrec.py").write_text(model, encoding="utf-8")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    printed = []
    for argv in [*own_commands(), script]:
        command = ["-c", argv] if argv == script else ["-m", "recbole_blair", *argv]
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, f"{argv}\n{done.stderr[-2000:]}"
        printed.append(done.stdout)
    assert {path.name for path in (tmp_path / "dataset").iterdir() if path.is_dir()} == {
        "ml-100k", "ml-100k-last_out", "ml-100k-random", "movies"
    }  # fmt: skip
    note = "note: keys of RecBole's: worker=4 (batches are made in the training process); "
    assert note in printed[3] and "metrics (Precision: not computed here)" in printed[3] and "state" not in printed[3]
    run, _ = sorted((tmp_path / "saved").glob("*-SASRec-ml-100k-2020/"))  # the command's; the last is the script's
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert (config["protocol"], config["mask_history"], config["valid_metric"]) == ("last_out", False, "mrr@10")
    test = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert {"recall@10", "ndcg@10", "hit@10"} <= set(test) and 0 <= test["ndcg@10"] <= 1
    assert "BERT4Rec" in printed[4]
    assert len(re.findall(r"^ +\d+ +-?\d+\.\d+ +\d+", printed[8], re.MULTILINE)) == 10  # two users, five items each
    first, _, rest = printed[9].partition("\n")
    assert first.startswith("saved/") and float(first.split()[1]) >= 0 and "item_id" in rest
    assert not (tmp_path / "runs").exists()
