"""docs/plugins.md as written: commands run, files are as it says, its package installs and keeps the contract."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_blair import registry
from recbole_blair.cli.main import main
from recbole_blair.registry.new_model import KEYS, MODEL

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture(autouse=True)
def forget():
    yield
    for store in (registry.PLUGIN_FILES, registry.ASKED_FOR, registry.LOST_FILES):
        store.clear()


def run_python(*argv, cwd, path=()):
    """Run a Python of its own that sees this checkout and the folders `path`; returns what it printed."""
    paths = [*map(str, path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([sys.executable, *argv], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed = {}
    for line in COMMANDS:
        program, *argv = shlex.split(line)
        if program == "pytest":
            printed[line] = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", *argv, cwd=tmp_path)
            continue
        assert program == "recbole-blair", line
        argv += ["--show_progress=False"] if argv[0] == "train" else []
        assert main(argv) == 0, capsys.readouterr().err
        printed[line] = capsys.readouterr().out
    assert len(printed) == 6
    assert "6 passed" in next(out for line, out in printed.items() if line.startswith("pytest"))
    listed = next(out for line, out in printed.items() if line.startswith("recbole-blair models"))
    assert re.search(r"MyRec +plugin file ", listed) and re.search(r"LRURecText +plugin ", listed)
    assert "ndcg@5" in next(out for line, out in printed.items() if line.startswith("recbole-blair evaluate"))
    written = (tmp_path / "my_models/test_myrec.py").read_text(encoding="utf-8")
    assert written.split('"""')[-1].strip() == blocks("python")[0].strip()


def test_new_model_in_a_checkout_writes_into_its_rooms(tmp_path, monkeypatch, capsys):
    from recbole_blair.registry import new_model

    checkout = tmp_path / "checkout"
    for folder in ("recbole_blair/plugins", "props/model"):
        (checkout / folder).mkdir(parents=True)
    (checkout / "setup.py").write_text("")
    monkeypatch.setattr(new_model, "PACKAGE_DIR", checkout / "recbole_blair")
    monkeypatch.chdir(checkout)
    assert main(["new-model", "ShelfRec"]) == 0
    files = sorted(str(path.relative_to(checkout)) for path in checkout.rglob("*helf*"))
    assert files == ["props/model/ShelfRec.yaml", "recbole_blair/plugins/shelfrec.py"]
    assert "pytest tests/contract -k ShelfRec" in capsys.readouterr().out


MISTAKES = {
    ("myRec",): "'myRec' is no name for a model; expected letters and digits, a capital first, as in MyRec",
    ("SasRecText",): "there is a model SASRecText already; choose another name",
    ("Bert4rec",): "there is a model BERT4Rec already",
    ("MyRec", "--dir=there"): "there/MyRec.yaml is there already; choose another name or --dir",
}


@pytest.mark.parametrize("argv", MISTAKES)
def test_new_model_refuses_what_would_clash(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/MyRec.yaml").write_text("mine: 1\n")
    assert main(["new-model", *argv]) == 2
    assert MISTAKES[argv] in capsys.readouterr().err
    assert (tmp_path / "there/MyRec.yaml").read_text() == "mine: 1\n"
    assert not (tmp_path / "there/myrec.py").exists()


def test_new_model_goes_on_where_a_full_disk_stopped_it(tmp_path, capsys):
    argv = ["new-model", "MyRec", f"--dir={tmp_path}"]
    assert main(argv) == 0
    (tmp_path / "test_myrec.py").unlink()
    assert main(argv) == 0 and (tmp_path / "test_myrec.py").is_file()
    assert main(argv) == 2 and "myrec.py is there already" in capsys.readouterr().err


def write_package(folder):
    """Write the package of the tutorial, its model the one that new-model writes."""
    names = blocks("text")[0].split()
    model, keys = (template.format(name="ShopRec", lower="shoprec") for template in (MODEL, KEYS))
    contents = {".toml": blocks("toml")[0], ".yaml": keys, "__init__.py": "", "shoprec_model.py": model}
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(next(text for end, text in contents.items() if name.endswith(end)), encoding="utf-8")
    return folder / "shoprec"


@pytest.mark.slow
def test_a_package_that_is_built_and_installed_is_found_and_keeps_the_contract(tmp_path):
    pytest.importorskip("setuptools", reason="building a package needs setuptools")
    assert "pip install ./shoprec" in TEXT
    package, site = write_package(tmp_path / "src"), tmp_path / "site"
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")
    run_python("-m", "pip", "install", *offline, f"--target={site}", str(package), cwd=tmp_path)
    assert (site / "shoprec/ShopRec.yaml").is_file() and not list(site.glob("recbole*"))
    (tmp_path / "test_shop.py").write_text(blocks("python")[1], encoding="utf-8")
    pytest_argv = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py")
    assert "6 passed" in run_python(*pytest_argv, cwd=tmp_path, path=[site])
    listed = run_python("-m", "recbole_blair", "models", "--source=package", cwd=tmp_path, path=[site])
    assert re.search(r"ShopRec +package shoprec 1\.0 +Users are a layer over", listed)


def test_a_package_that_takes_a_name_is_listed_and_the_model_keeps_it(tmp_path):
    info = tmp_path / "shoprec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shoprec\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recbole_blair.models]\nSASRec = shoprec.model:SASRec\n")
    code = "from recbole_blair.registry import find_model, list_models as l; print(find_model('SASRec').source)\n"
    code += "print([i.problem for i in l().values() if i.problem])"
    printed = run_python("-c", code, cwd=tmp_path, path=[tmp_path])
    assert printed.startswith("RecBole\n") and "names a model SASRec, which RecBole has" in printed
