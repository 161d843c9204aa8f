"""A package of an extra that is not installed: one line that names the extra, before anything is done."""

import importlib.util

import pytest

from recbole_blair.cli.main import guard, main


@pytest.mark.parametrize(
    ("argv", "package", "extra"),
    [
        (["pretrain", "--pairs=pairs.jsonl", "--output_dir=out"], "accelerate", "pretrain"),
        (["search", "--dataset=nowhere"], "bm25s", "search"),
        (["search", "--dataset=nowhere", "--stemmer=english"], "Stemmer", "search"),
        (["search", "--dataset=nowhere", "--retriever=tfidf-svd", "--index=hnsw"], "faiss", "search"),
        (["export-vectors", "--checkpoint=nowhere", "--faiss", "--output_dir=out"], "faiss", "search"),
        (["tune", "--model=SASRecID", "--dataset=sample"], "ray", "tune"),
        (["tune", "--model=SASRecID", "--dataset=sample", "--search=optuna"], "optuna", "tune"),
        (["prepare", "--dataset=sample", "--engine=ray"], "ray", "tune"),
        (["encode", "--dataset=sample", "--plm=openai:some-model"], "openai", "api"),
        (["train", "--model=SASRecText", "--dataset=sample", "--plm=openai:some-model"], "openai", "api"),
        (["build-c4", "--dataset=sample", "--model=some-model"], "openai", "api"),
    ],
)
def test_the_line_names_the_extra_before_any_work(argv, package, extra, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest))
    assert main(argv) == 2
    shown = capsys.readouterr().err
    assert f"needs {package}, not installed for " in shown and f"pip install 'recbole-blair[{extra}]'" in shown
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_import_that_no_check_foresaw_names_the_extra_too(capsys, monkeypatch):
    def run():
        raise ModuleNotFoundError("No module named 'ir_measures'", name="ir_measures")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert guard(run) == 2
    assert "pip install 'recbole-blair[search]'" in capsys.readouterr().err
