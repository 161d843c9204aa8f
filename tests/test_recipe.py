"""The setting that users are told to start with is one that trains."""

import pytest

from recbole_blair.cli.main import main
from recbole_blair.files.paths import props_dir

RECIPES = sorted(path.name for path in (props_dir() / "recipe").glob("*.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_from_any_folder(name, tmp_path, monkeypatch, capsys):
    """`props/…` is the installed file where the working folder has none of that name."""
    monkeypatch.chdir(tmp_path)
    argv = ["train", f"--config_files=props/recipe/{name}", "--dataset=sample-u60-i60", "--plm=tfidf-svd", "--epochs=1"]
    assert main([*argv, "--seed=1", "--seeds=1", "--output_dir=run", "--device=cpu", "--threads=1"]) == 0
    assert "HSTUBlair" in capsys.readouterr().out
