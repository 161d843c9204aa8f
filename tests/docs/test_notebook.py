"""examples/quickstart.ipynb runs in a folder that `recbole-blair example` fills; git holds no outputs of it."""

import json
import re

import pytest
from doc_commands import ROOT

from recbole_blair.cli.main import main

NAMES = ["histories.jsonl", "items.csv", "log.csv", "new_items.jsonl", "quickstart.ipynb"]
NOTEBOOK = json.loads((ROOT / "examples/quickstart.ipynb").read_text(encoding="utf-8"))
LIMIT_S = 600  # per cell; a few seconds on an idle machine


def test_the_notebook_is_kept_without_outputs():
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 8 and not [cell for cell in code if cell["outputs"] or cell["execution_count"]]


def test_the_command_writes_the_files_once_and_leaves_others_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["example"]) == main(["example", "--output_dir=."]) == 0
    shown = capsys.readouterr()
    assert shown.out.split() == NAMES * 2 and sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert "next: recbole-blair prepare --dataset=shop --source=csv --interactions=log.csv" in shown.err
    assert main(["example", "--output_dir=a/b"]) == 0
    assert "--interactions=a/b/log.csv --items=a/b/items.csv" in capsys.readouterr().err
    (tmp_path / "items.csv").write_text("mine")
    (tmp_path / "log.csv").unlink()
    assert main(["example"]) == 2
    assert "items.csv is there already, with other content; choose another --output_dir" in capsys.readouterr().err
    assert (tmp_path / "items.csv").read_text() == "mine" and not (tmp_path / "log.csv").exists()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    assert main(["example", f"--output_dir={tmp_path}"]) == 0
    notebook = nbformat.read(tmp_path / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=LIMIT_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {}
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        assert not [part for part in outputs if "Traceback" in str(part) or "Warning" in str(part)], outputs
        texts = [part["text"] if part.output_type == "stream" else part["data"]["text/plain"] for part in outputs]
        shown[cell.source] = "\n".join(texts)
    compared = output_of(shown, "pd.DataFrame({")
    texts = float(re.search(r"recall@10 +([\d.]+)", compared)[1])
    assert texts > 1.5 * 10 / 120, compared
    assert output_of(shown, "categories=Lamp and price<30").count("lamp") == 5
    assert "p9" not in output_of(shown, "categories=Lamp and price<30").split()
    assert output_of(shown, 'recommend(["c1"]').count("c1") == 3
    assert len(re.findall(r"p1 +[123] ", output_of(shown, "shop.similar"))) == 6
    assert re.search(r"best item of c1: p\d+", output_of(shown, "shop.encode"))
    assert output_of(shown, "answer(").count("green lamp") >= 3


def output_of(shown, part):
    """Return what the one cell with this code printed."""
    (text,) = [text for source, text in shown.items() if part in source]
    return text
