"""Every file of a run, damaged in every way, under every command that opens a run.

Right is one line that names the file with exit status 2; or, where the file is not needed, the undamaged result;
or a result with a line that names the file.
"""

import random
import shutil

import pytest
from builds import random_sequences, write_build

from recbole_blair.cli.main import main
from recbole_blair.quick_start import run

FAST = {
    "epochs": 2, "train_batch_size": 32, "device": "cpu", "precision": "fp32", "show_progress": False, "threads": 1,
    "hidden_size": 16, "inner_size": 32, "save_ranks": True,
}  # fmt: skip


def flip(position):
    """Return a damage: one bit flipped at a fraction of the file."""

    def damage(path):
        data = bytearray(path.read_bytes())
        data[min(int(len(data) * position), len(data) - 1)] ^= 1
        path.write_bytes(data)

    return damage


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


FLIPS = {f"flip at {position}": flip(position) for position in (0.0, 0.02, 0.5, 1.0)}
DAMAGES = {
    **FLIPS,
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(random.Random(1).randbytes(path.stat().st_size)),
    "folder": replace_by_folder,
    "missing": lambda path: path.unlink(),
}
BEST, EPOCH = "checkpoint/best.safetensors", "checkpoint/epoch-0002"
READ = ("config.yaml", "metrics.json", BEST, "checkpoint/checksums.json")
RESUMED = ("config.yaml", BEST, f"{EPOCH}/model.safetensors", f"{EPOCH}/state.pt", f"{EPOCH}/checksums.json")
COMMANDS = {
    "recommend": (READ, ["recommend", "--checkpoint=RUN", "--users=u1,u2", "--quiet", "--device=cpu"]),
    "evaluate": (READ, ["evaluate", "--checkpoint=RUN", "--device=cpu"]),
    "export-vectors": (READ, ["export-vectors", "--checkpoint=RUN", "--output_dir=OUT", "--device=cpu", "--quiet"]),
    "report": ((*READ, "ranks.parquet"), ["report", "RUN", "--samples=100", "--quiet", "--output=OUT/page.html"]),
    "resume": (RESUMED, ["train", "--resume=RUN"]),
    "init_from": ((BEST,), ["train", "--model=SASRecID", "--dataset=tiny", "--init_from=RUN", "--output_dir=OUT/new"]),
}


def cases():
    """Every command with every damage of every file it reads; the quick run takes each damage of a file once."""
    seen = set()
    for command, (files, _) in COMMANDS.items():
        for file in files:
            for damage in DAMAGES:
                if file == "metrics.json" and damage in FLIPS:  # a digit that became another one is JSON as well
                    continue
                marks = [pytest.mark.slow] if (file, damage) in seen else []
                seen.add((file, damage))
                yield pytest.param(command, file, damage, marks=marks, id=f"{command}, {file}, {damage}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run and the folder of its build."""
    root = tmp_path_factory.mktemp("damaged_runs")
    build = write_build(root / "data", random_sequences(n_users=30, n_items=40))
    run("SASRecID", "tiny", data_path=str(build.parent), output_dir=str(root / "run"), **FAST)
    return root / "run", build.parent


@pytest.fixture
def call(trained, tmp_path, capsys):
    """Run a command on a copy of the run that `change` has damaged."""
    source, data = trained

    def run_command(command, change=lambda folder: None):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        if command == "resume":
            (folder / "metrics.json").unlink()
        change(folder)
        argv = [word.replace("RUN", str(folder)).replace("OUT", str(tmp_path / "out")) for word in COMMANDS[command][1]]
        if command == "init_from":
            argv += [f"--data_path={data}", *(f"--{key}={value}" for key, value in FAST.items())]
        capsys.readouterr()
        status = main(argv)
        shown = capsys.readouterr()
        return status, shown.out.replace(str(tmp_path), ""), shown.err

    return run_command


@pytest.fixture(scope="module")
def undamaged():
    """What each command prints for the run as it was trained; filled by the first test that needs it."""
    return {}


@pytest.mark.parametrize(("command", "file", "damage"), list(cases()))
def test_damage_is_named_or_changes_nothing(call, undamaged, command, file, damage):
    if command not in undamaged:
        status, undamaged[command], _ = call(command)
        assert status == 0
    status, out, error = call(command, lambda folder: DAMAGES[damage](folder / file))
    assert "Traceback" not in error
    named = [line for line in error.splitlines() if file.rpartition("/")[2] in line or "best.safetensors" in line]
    if status == 2:
        errors = [line for line in error.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and errors[0] in named and error.splitlines()[-1] == errors[0], error
    else:
        assert status == 0, error
        same = command in ("resume", "report", "init_from") or out == undamaged[command]
        assert named or same, (out, undamaged[command], error)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("missing", "folder")])
def test_damaged_weights_are_never_used(call, damage):
    for command in ("recommend", "evaluate"):
        status, out, error = call(command, lambda folder: DAMAGES[damage](folder / BEST))
        assert status == 2 and "copy the run again, or train it again" in error and "ndcg" not in out


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt"])
def test_damaged_checkpoints_are_never_gone_on_from(call, file):
    for damage in FLIPS.values():
        status, _, error = call("resume", lambda folder, damage=damage: damage(folder / EPOCH / file))
        assert status == 2 and f"{file} is damaged" in error and "epoch-0002 to go on without it" in error


def test_a_run_of_a_version_without_checksums_opens_with_a_line(call):
    def make_old(folder):
        for path in folder.rglob("checksums.json"):
            path.unlink()
        config = folder / "config.yaml"
        config.write_text(config.read_text().split("\n", 1)[1])

    for command in ("recommend", "evaluate", "resume"):
        status, _, error = call(command, make_old)
        lines = [line for line in error.splitlines() if "recorded no checksums" in line]
        assert status == 0 and len(lines) == (2 if command == "resume" else 1), error  # the epoch and the best weights


def test_a_changed_configuration_opens_once_its_first_line_is_gone(call):
    def change(folder, kept=0):
        config = folder / "config.yaml"
        lines = config.read_text().splitlines(keepends=True)
        config.write_text("".join(lines[kept:]).replace("eval_batch_size: ", "eval_batch_size: 1"))

    status, _, error = call("evaluate", change)
    assert status == 2 and "if you changed it on purpose, delete the first line" in error
    assert call("evaluate", lambda folder: change(folder, 1))[0] == 0


@pytest.mark.parametrize(("file", "words"), [(BEST, "holds no checkpoint/best"), ("ranks.parquet", "saved no ranks")])
def test_report_says_what_a_run_lacks_on_the_page_and_beside_it(call, tmp_path, file, words):
    status, _, error = call("report", lambda folder: (folder / file).unlink())
    assert status == 0 and words in error
    assert words in (tmp_path / "out" / "page.html").read_text()


def test_the_next_command_removes_what_a_killed_one_left(call, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".items.npy.blair-0123abcd.tmp").write_bytes(b"half")
    assert call("export-vectors")[0] == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "items.npy", "items.parquet", "users.npy", "users.parquet", "vectors.json"
    ]  # fmt: skip

    def leave(folder):
        (folder / ".metrics.json.blair-0123abcd.tmp").write_bytes(b"half")
        (folder / "checkpoint" / ".epoch-0003.blair-0123abcd.tmp").mkdir()
        (folder / "checkpoint" / "epoch-0002").rename(folder / "checkpoint" / "epoch-0001")
        shutil.rmtree(folder / "checkpoint" / "epoch-0001")

    assert call("resume", leave)[0] == 0
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.name != ".lock"]
