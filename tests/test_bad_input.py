"""Wrong input to training: one clear line on stderr, exit status 2, no traceback, nothing half-made."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from builds import VALID_MS, random_sequences, write_build, write_features

from recbole_blair.cli.main import main
from recbole_blair.train import checkpoint

ROOT = Path(__file__).resolve().parents[1]
FAST = ["--epochs=2", "--train_batch_size=32", "--device=cpu", "--precision=fp32", "--show_progress=False"]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A tiny build under data/, and an empty working directory."""
    folder = write_build(tmp_path / "data", random_sequences(n_users=20))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return folder


def only_error(status, stderr):
    """Check that a command was refused in one last line, and return it."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and "Traceback" not in stderr, stderr
    assert stderr.splitlines()[-1] == errors[0]
    return errors[0]


@pytest.fixture
def refused(build, capsys):
    """Run the command here and return the line that refuses it."""

    def run(*argv, model="SASRec", dataset="tiny", data_path=build.parent):
        capsys.readouterr()
        argv = [f"--model={model}", f"--dataset={dataset}", f"--data_path={data_path}", *FAST, *argv]
        status = main(["train", *argv])
        shown = capsys.readouterr()
        assert shown.out == ""
        return only_error(status, shown.err)

    return run


def test_names_and_keys_leave_no_folder_behind(refused):
    assert "unknown model 'SASReq'. Did you mean 'SASRec'" in refused(model="SASReq")
    assert "unknown key 'hiden_size' in the command line: SASRec does not read it" in refused("--hiden_size=8")
    assert "eval_step='often' in the command line is a str; expected int" in refused("--eval_step=often")
    assert "no-such.yaml: no such file; expected keys and values" in refused("--config_files=no-such.yaml")
    assert "learner='lion' in the command line is not one of adam, adamw, sgd" in refused("--learner=lion")
    assert not list(Path.cwd().iterdir())


def test_a_path_or_an_unknown_baseline(refused, build):
    assert "is a path; give a name, and its folder by --data_path" in refused(dataset=str(build))
    assert "unknown model 'SASRek'. Did you mean 'SASRec'" in refused("--baselines=SASRek")
    assert not list(Path.cwd().iterdir())


def test_a_device_that_is_not_here(build, capsys):
    for name, words in (("abacus", "is not one of auto, cpu, cuda, cuda:N"), ("cuda:99", "CUDA devices are")):
        argv = ["--model=SASRec", "--dataset=tiny", f"--data_path={build.parent}", f"--device={name}"]
        status = main(["train", *argv])
        assert words in only_error(status, capsys.readouterr().err)


def test_an_empty_split(refused, build):
    path = build / "tiny.valid.inter"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert "tiny.valid.inter has no row: choose other instants or another dataset" in refused()


def test_features_of_another_dataset(refused, build, tmp_path):
    other = write_build(tmp_path / "other", random_sequences(n_users=20, n_items=25))
    write_features(other)
    for file in other.glob("tiny.someone--test-encoder.feature*"):
        shutil.copy(file, build)
    line = refused("--plm=someone/test-encoder", model="SASRecText")
    assert "tiny.someone--test-encoder.feature was made for other items" in line and "recbole-blair encode" in line


def test_features_of_another_width(refused, build):
    write_features(build, width=16)
    line = refused("--plm=someone/test-encoder", "--plm_size=768", model="UniSRecBlair")
    assert "tiny.someone--test-encoder.feature has width 16 but plm_size is 768; set plm_size: 16" in line


def test_an_encoder_folder_that_does_not_exist(refused, tmp_path):
    line = refused(f"--plm={tmp_path / 'no-encoder'}", model="SASRecText")
    assert "no-encoder" in line and not list(Path.cwd().iterdir())


def test_resuming_what_is_no_run(refused, tmp_path, capsys):
    capsys.readouterr()
    status = main(["train", f"--resume={tmp_path}"])
    assert "holds no config.yaml: it is no run folder" in only_error(status, capsys.readouterr().err)


@pytest.mark.parametrize("file", ["state.pt", "model.safetensors"])
def test_a_damaged_checkpoint(refused, tmp_path, monkeypatch, file):
    real = checkpoint.load_best

    def dies(run_dir):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "load_best", dies)
    folder = tmp_path / "run"
    argv = ["train", "--model=SASRec", "--dataset=tiny", f"--data_path={tmp_path / 'data'}", f"--output_dir={folder}"]
    assert main([*argv, *FAST]) == 130
    monkeypatch.setattr(checkpoint, "load_best", real)
    path = folder / "checkpoint" / "epoch-0002" / file
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    line = refused(f"--output_dir={folder}")
    assert f"epoch-0002/{file} is damaged" in line and "delete" in line
    shutil.rmtree(path.parent)  # what the message advises
    assert main([*argv, *FAST]) == 0


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_full_disk_while_writing(refused, tmp_path, monkeypatch, call):
    """config.yaml, best weights, the epoch's weights and its state: each may be the write that fails."""
    real, calls = os.fsync, []

    def full(fd):
        calls.extend([fd] if stat.S_ISREG(os.fstat(fd).st_mode) else [])  # a folder that cannot be synced is let be
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        line = refused(f"--output_dir={folder}")
    assert "cannot write" in line and "No space left on device; free some space" in line
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    argv = ["train", "--model=SASRec", "--dataset=tiny", f"--data_path={tmp_path / 'data'}", f"--output_dir={folder}"]
    assert main([*argv, *FAST]) == 0  # with space again, the same command goes on
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KiB; the test is skipped where none may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root, where the system lets it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(refused, small_disk):
    line = refused(f"--output_dir={small_disk / 'run'}")
    assert "cannot write" in line and "No space left on device" in line
    assert not (small_disk / "run" / "metrics.json").exists()


def test_a_disk_without_space_for_the_binary_copy(refused, small_disk, build):
    shutil.copytree(build, small_disk / "tiny")
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(b"0" * (free - 8192))
    line = refused(data_path=small_disk)
    assert "No space left on device" in line
    assert not list((small_disk / "tiny" / ".cache").glob("*"))


IN_ONE_PROCESS = """
import contextlib, io, json, sys
from recbole_blair.cli.main import main
told = []
for argv in json.loads(sys.argv[1]):
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown):
        status = main(["train", *argv])
    told.append([status, shown.getvalue()])
print(json.dumps(told))
"""


def test_without_a_network_missing_files_are_named(build, tmp_path):
    empty = [f"--raw_dir={tmp_path / 'raw'}", f"--data_path={tmp_path / 'new'}", *FAST]
    cases = [
        ["--model=SASRec", "--dataset=All_Beauty", *empty],
        ["--model=SASRec", "--dataset=All_Beuty", *empty],
        ["--model=SASRecText", "--dataset=tiny", f"--data_path={build.parent}", "--plm=no-one/no-such-encoder", *FAST],
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    raw, dataset, plm = (only_error(*case) for case in json.loads(done.stdout.splitlines()[-1]))
    assert "All_Beauty.jsonl" in raw and "HF_HUB_OFFLINE is set" in raw and "--raw_dir" in raw
    assert "'All_Beuty'" in dataset and "All_Beauty" in dataset
    assert "no-one/no-such-encoder" in plm
    assert not (tmp_path / "new" / "All_Beauty" / "All_Beauty.item").exists()


@pytest.mark.parametrize("command", [["-m", "recbole_blair", "train"], [str(ROOT / "run_recbole.py")]])
def test_both_commands_exit_with_two(command, tmp_path):
    argv = [sys.executable, *command, "--model=UniSRecBlar", "--dataset=sample"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert "unknown model 'UniSRecBlar'. Did you mean 'UniSRecBlair'" in only_error(done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stdout == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [[], ["--seeds=1,2", "--baselines=SeqPop"]])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("--plm_dimensions=10", "--plm_dimensions=10 belongs to a pretrained encoder"),
        ("--feature_transform=pca:0", "feature_transform=pca:0 is not one of none, rms"),
        ("--plm=vectors:none.npy", "none.npy: no such file"),
        ("--init_from=nowhere", "best.safetensors: it is no run folder"),
        ("--data_path=file", "--data_path=file: a file, not a folder; give a folder"),
    ],
)  # fmt: skip
def test_what_is_refused_once_data_and_encoder_are_looked_at_leaves_no_folder_behind(refused, wrong, words, more):
    Path("file").write_text("x")
    plm = [] if wrong.startswith("--plm=") else ["--plm=tfidf-svd"]
    own = {"data_path": Path("file")} if wrong.startswith("--data_path") else {}
    assert words in refused(*plm, *([] if own else [wrong]), *more, model="SASRecText", **own)
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_events_after_the_split_make_no_training_rows(refused, build):
    late = {f"u{i}": [("i1", VALID_MS + i), ("i2", VALID_MS + 50 + i)] for i in range(5)}
    write_build(build.parent, late)
    assert "tiny.train.inter has no row" in refused()


def test_a_python_without_the_packages_is_told_where_they_are(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='absent_torch')\n")
    done = subprocess.run(
        [sys.executable, ROOT / "run_recbole.py", "--model=SeqPop", "--dataset=sample"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    line = only_error(done.returncode, done.stderr)
    assert f"absent_torch is not installed for {sys.executable}; use the environment that `make install` makes" in line


def test_a_fault_in_a_package_that_is_there_keeps_its_traceback():
    from recbole_blair.cli.main import guard

    def run():
        import recbole_blair.no_such_part  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="no_such_part"):
        guard(run)
