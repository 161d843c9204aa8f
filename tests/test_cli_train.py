"""The command line of training: how arguments are read, what is printed without training."""

import re
import subprocess
import sys

import pytest
import yaml

from recbole_blair import quick_start
from recbole_blair.cli.main import main
from recbole_blair.cli.train import parse
from recbole_blair.config import resolve_config
from recbole_blair.errors import InputError
from recbole_blair.registry import find_model

from builds import random_sequences, write_build  # isort: skip


@pytest.mark.parametrize(
    ("argv", "overrides"),
    [
        (["--epochs=3"], {"epochs": 3}),
        (["--epochs", "3"], {"epochs": 3}),
        (["--weight_decay", "-1"], {"weight_decay": -1}),
        (["--learning_rate=1e-3"], {"learning_rate": 1e-3}),
        (["--compile"], {"compile": True}),
        (["--compile", "--epochs=3"], {"compile": True, "epochs": 3}),
        (["--compile=False"], {"compile": False}),
        (["--plm=folder/a=b"], {"plm": "folder/a=b"}),
        (["--raw_dir=with space"], {"raw_dir": "with space"}),
        (["--topk=[5, 10]"], {"topk": [5, 10]}),
        (["--baselines="], {"baselines": None}),
        (["--epochs=3", "--epochs=3"], {"epochs": 3}),
        (["--plm_revision=7e12345"], {"plm_revision": "7e12345"}),
        (["--plm_revision=0123"], {"plm_revision": "0123"}),
        (["--output_dir=2024-01-01"], {"output_dir": "2024-01-01"}),
    ],
)
def test_arguments_become_overrides(argv, overrides):
    assert parse(["--model=SASRec", "--dataset", "Games", *argv]) == (
        {"model": "SASRec", "dataset": "Games"},
        overrides,
    )


def test_options_are_kept_apart_from_keys():
    options, overrides = parse(["--config_files=a.yaml,b.yaml", "--dry_run", "--print_config", "-h"])
    assert options == {"config_files": ["a.yaml", "b.yaml"], "dry_run": True, "print_config": True, "help": True}
    assert overrides == {}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["epochs=3"], "unexpected argument 'epochs=3'; keys are written --key=value"),
        (["-e", "3"], "unexpected argument '-e'"),
        (["--"], "unexpected argument '--'"),
        (["--epochs=3", "--epochs=4"], "--epochs is given twice, as 3 and 4"),
        (["--model"], "--model needs a name"),
        (["--dry_run", "now"], "unexpected argument 'now'"),
        (["--dry_run=3"], "--dry_run=3: it takes no value, or True or False"),
        (["--config_files=3"], "--config_files=3: expected YAML files"),
    ],
)
def test_other_arguments_are_refused(argv, words):
    with pytest.raises(InputError, match=words):
        parse(argv)


@pytest.mark.parametrize("missing", ["model", "dataset"])
def test_a_missing_name_is_asked_for(missing, capsys):
    argv = [a for a in ("--model=SASRec", "--dataset=tiny") if missing not in a]
    assert main(["train", *argv]) == 2
    assert f"error: --{missing}=… is missing" in capsys.readouterr().err


def test_the_printed_configuration_is_read_back(tmp_path, capsys):
    argv = ["--model=UniSRecBlair", "--dataset=sample", "--learning_rate=1e-4", "--topk=5,20", "--plm_size=12"]
    assert main(["train", *argv, "--print_config"]) == 0
    printed = capsys.readouterr().out
    first = yaml.safe_load(printed)
    assert (first["learning_rate"], first["topk"], first["plm"]) == (1e-4, [5, 20], "tfidf-svd")
    file = tmp_path / "printed.yaml"
    file.write_text(printed)
    info = find_model("UniSRecBlair")
    again = resolve_config(info, "sample", [str(file)])
    assert again.plain() == resolve_config(info, "sample", (), parse(argv)[1]).plain()
    assert main(["train", *argv[:2], f"--config_files={file}", "--print_config"]) == 0
    assert capsys.readouterr().out == printed


def test_help_lists_every_key_with_its_default(capsys):
    assert main(["train", "--help", "--model=SASRecText"]) == 0
    shown = capsys.readouterr().out
    for key, value in (("learning_rate", "0.001"), ("adaptor_dropout_prob", "0.2"), ("plm", "hyp1231/blair")):
        assert re.search(rf"^  {key}: {re.escape(value)}.*#", shown, re.MULTILINE), key
    assert "example: recbole-blair train --model=" in shown


def test_ctrl_c_names_the_command_that_goes_on(tmp_path, monkeypatch, capsys):
    """Without --output_dir the same command would start a new run, in a folder of another time."""
    folder = write_build(tmp_path / "data", random_sequences(10))
    monkeypatch.chdir(tmp_path)
    real = quick_start.seed_everything

    def stopped(seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(quick_start, "seed_everything", stopped)
    argv = ["train", "--model=SASRecID", "--dataset=tiny", f"--data_path={folder.parent}", "--epochs=1"]
    assert main([*argv, "--device=cpu", "--show_progress=False"]) == 130
    (run,) = (tmp_path / "runs").iterdir()
    command = f"train --resume={run.relative_to(tmp_path)}"
    assert f"interrupted; go on with: recbole-blair {command}" in capsys.readouterr().err
    monkeypatch.setattr(quick_start, "seed_everything", real)
    assert main(command.split()) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name] and (run / "metrics.json").is_file()


def test_help_loads_no_heavy_library():
    code = "import sys; from recbole_blair.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += (
        "print(sorted({'torch', 'numpy', 'pandas', 'duckdb', 'transformers', 'ray', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path, monkeypatch, capsys):
    folder = write_build(tmp_path / "data", random_sequences(10))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    before = sorted(folder.rglob("*"))
    argv = ["--model=SASRecText", "--dataset=tiny", f"--data_path={folder.parent}", "--plm=tfidf-svd"]
    assert main(["train", *argv, "--baselines=SASRec", "--seeds=1,2", "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "there; used as it is" in shown
    assert re.search(r"tiny\.tfidf-svd\.feature: to be made with tfidf-svd: \d+ texts", shown)
    assert "4 run(s): SASRecText, SASRec x seeds [1, 2]" in shown
    assert not list((tmp_path / "cwd").iterdir()) and sorted(folder.rglob("*")) == before
