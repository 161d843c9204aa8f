"""Every option of every command that takes a path, with every damage of a file: one line, exit status 2, at once.

The options come from the commands' own parsers and key files; the work behind them is stopped where it begins.
"""

import gzip
import json
import shutil
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE / room) for room in ("recommend", "search", "text"))]

from recommend_runs import save_run, write_text_build
from shop_data import write_raw
from tiny_encoders import write_tiny_encoder

from recbole_blair.cli.main import build_parser, command_names, main
from recbole_blair.config.keys import props_keys

KEY_FILES = {
    "train": ["overall.yaml"], "tune": ["overall.yaml", "tune/tune.yaml"], "pretrain": ["pretrain/pretrain.yaml"],
}  # fmt: skip
MORE = {  # options of another kind that may name a file, too
    "recommend": ["users"], "export-vectors": ["users"], "search": ["dataset"], "similar": ["items"],
    "prepare": ["recipe"], "train": ["config_files"], "tune": ["config_files"], "pretrain": ["config_files"],
}  # fmt: skip
OUTPUTS = ("output", "output_dir", "checkpoint_dir", "index_dir", "dir", "pairs_path", "data_path")  # made when missing
UNREAD = {  # options that the command line below rightly does not look at, by command (`*`: any)
    "*": ["raw_dir", "cache_dir"],  # the build is there; the encoder is a folder
    "search": ["plm", "baseline", "run", "data_path"],  # bm25 encodes nothing; `run` and `baseline` belong together
    "train": ["plm"], "tune": ["plm", "data_path"], "evaluate": ["plm"],  # an id model; stopped before data
    "pretrain": ["exclude_reviews", "scratch", "pairs_path"],  # of --dataset; of a fresh encoder
    "reproduce": ["measuring", "plm", "data_path"],  # read when a row needs them
    "bench": ["measuring"],  # read when a data set needs it
    "stats": ["data_path"], "recommend": ["plm"], "export-vectors": ["plm"], "similar": ["plm"], "serve": ["plm"],
}  # fmt: skip


class Worked(Exception):
    """The command came to its work."""


def path_options(command):
    """The options of a command whose kind is a path, without dashes; an argument is None."""
    if command in KEY_FILES:
        kinds = {key: kind for file in KEY_FILES[command] for key, kind in props_keys(file).kinds.items()}
        names = [key for key, kind in kinds.items() if kind.type == "path"]
    else:
        actions = build_parser([command])._subparsers._group_actions[0].choices[command]._actions
        paths = [a for a in actions if getattr(getattr(a.type, "kind", None), "type", "") == "path"]
        names = [a.option_strings[-1][2:] if a.option_strings else a.dest for a in paths]
    return [*names, *MORE.get(command, [])]


DAMAGES = {  # what stands at the path: bytes, or what makes it
    "binary": b"\x80\xff\0\x01" * 200,
    "swap": "a folder for a file, a file for a folder",
    "below a file": "file/x",
    "empty": b"",
    "missing": "no-such-thing",
    "long": "x" * 300,
    "loop": "loop",
    "proc": "/proc/x",
    "nul": b'{"user_id": "\0"}\n',
    "latin-1": '{"user_id": "é"}\n'.encode("latin-1"),
    "deep": b'{"user_id": "x", "item_id_list": ' + b"[" * 100_000 + b"\n",
    "surrogate": b'{"user_id": "\\ud800", "item_id": "\\ud800", "context": "\\ud800"}\n',
    "bomb": b"a: &a [x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (i, i, b", ".join([b"*%c" % (i - 1)] * 9)) for i in range(98, 110)),
    "date": b"learning_rate: 2024-99-99\n",
    "not gzip.gz": b"{}",
    "cut.gz": gzip.compress(b'{"user_id": "x"}\n' * 50, mtime=0)[:-9],
}
FOLDERS = ("checkpoint", "source", "compare", "merge", "runs", "run", "build")
ALWAYS_WRONG = ("below a file", "loop", "proc", "long")
QUICK = ("binary", "swap")


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A build, an encoder, a run, a shop, raw reviews and an own log; the right command line of each command."""
    root = tmp_path_factory.mktemp("world")
    plm = str(write_tiny_encoder(root / "tiny-encoder", pooling="mean"))
    build = write_text_build(root / "data", plm)
    run = save_run(root / "run", "UniSRecBlair", build, plm=plm)
    shop = root / "shop"
    shop.mkdir()
    rows = [{"item_id": f"i{n}", "category": "c", "metadata": f"red lamp {n}"} for n in range(5)]
    (shop / "item_pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame([["q", "red lamp", "i1"]], columns=["qid", "query", "item_id"]).to_csv(shop / "test.csv", index=False)
    pairs = root / "pairs.jsonl"
    pair = {"context": "a red lamp for a table " * 9, "metadata": "lamp red big " * 9, "timestamp": 1}
    pairs.write_text("".join(json.dumps({**pair, "item_id": f"i{n}"}) + "\n" for n in range(99)))
    raw = write_raw(root) / "raw"
    log = root / "log.csv"
    events = [f"u{n % 9},i{n % 7},{1_600_000_000_000 + n}" for n in range(400)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *events]) + "\n")
    data = [f"--data_path={root / 'data'}", "--device=cpu"]
    ours = ["--model=SASRec", "--dataset=tiny", *data, "--epochs=1", "--show_progress=False"]
    return {
        "bench": ["--suite=smoke", "--plm=tfidf-svd", "--quiet"],
        "build-c4": ["--dataset=Appliances", f"--raw_dir={raw}", "--model=m", "--n=2", "--base_url=http://x/v1"],
        "compare": ["lamp", "red lamp", f"--plm={plm}", "--device=cpu"],
        "doctor": [],
        "encode": [f"--build={build}", f"--plm={plm}", "--device=cpu", "--quiet"],
        "evaluate": [f"--checkpoint={run}", "--device=cpu"],
        "example": ["--output_dir=shop"],
        "export-encoder": [f"--checkpoint={with_trained_encoder(run, plm)}", "--output_dir=exported"],
        "export-vectors": [f"--checkpoint={run}", "--device=cpu", "--quiet"],
        "models": [],
        "new-model": ["MyRec", "--dir=mine"],
        "prepare": ["--source=csv", "--dataset=log", f"--interactions={log}", "--quiet"],
        "pretrain": [f"--pairs={pairs}", f"--plm={plm}", "--device=cpu", "--output_dir=out", "--holdout=0.1"],
        "push": [str(run), "--repo=shop/games", "--dry_run"],
        "recommend": [f"--checkpoint={run}", "--users=u1", "--device=cpu", "--quiet"],
        "report": [str(run), "--device=cpu", "--quiet"],
        "reproduce": ["blair-table4", "--scale=smoke"],
        "search": [f"--dataset={shop}", "--retriever=bm25", "--quiet"],
        "serve": [f"--checkpoint={run}", "--device=cpu", "--port=0"],
        "similar": [f"--checkpoint={run}", "--items=i001", "--device=cpu", "--quiet"],
        "stats": ["Appliances", f"--raw_dir={raw}", "--quiet"],
        "train": ours,
        "tune": ours,
    }


def with_trained_encoder(run, plm):
    """Copy a run as if it had trained its text encoder; returns the copy."""
    joint = run.with_name("joint")
    shutil.copytree(run, joint)
    shutil.copytree(plm, joint / "encoder")
    config = joint / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)[1:]  # without the checksum
    config.write_text("".join(lines).replace("train_encoder: none", "train_encoder: last:1"))
    return joint


@pytest.fixture
def stopped(monkeypatch):
    """Stop the long work of every command where it begins."""
    from recbole_blair.bench import run as bench_run
    from recbole_blair.pretrain import run as pretrain_run
    from recbole_blair.reproduce import run as reproduce_run
    from recbole_blair.search.c4 import build as c4
    from recbole_blair.serve import server
    from recbole_blair.train.trainer import BlairTrainer
    from recbole_blair.tune import run as tune_run

    def work(*args, **kwargs):
        raise Worked

    places = [
        (pretrain_run, "build_trainer"), (reproduce_run, "reproduce"), (c4, "build_requests"), (BlairTrainer, "fit"),
        (tune_run, "run_sweep"), (bench_run, "run_bench"), (server, "serve"),
    ]  # fmt: skip
    for place, name in places:
        monkeypatch.setattr(place, name, work)


def damaged(folder, name, is_folder):
    """Make the damage and return the path that is given."""
    (folder / "file").write_text("x\n")
    (folder / "loop").symlink_to("loop")
    damage = DAMAGES[name]
    if name == "swap":
        (folder / "folder").mkdir()
        return folder / ("file" if is_folder else "folder")
    if isinstance(damage, bytes):
        path = folder / f"damaged-{name}"
        path.write_bytes(damage)
        return path
    return Path(damage) if damage.startswith("/") else folder / damage


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# The doctor reports what is wrong with a machine, and goes on.
CASES = [(command, option) for command in command_names() if command != "doctor" for option in path_options(command)]


def run_one(world, stopped, tmp_path, monkeypatch, capsys, command, option, damage):
    given, work = tmp_path / "given", tmp_path / "work"
    given.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    is_folder = option.endswith(("_dir", "_path")) or option in FOLDERS
    path = damaged(given, damage, is_folder)
    argv = [word for word in world[command] if not word.startswith(f"--{option}=")]
    if option in ("runs", "source"):
        argv = [str(path), *argv[1:]]
    elif option == "merge":  # runs nothing, so it takes no encoders
        argv = [f"--merge={path}"]
    elif command == "encode" and option == "data_path":
        argv = [*argv[1:], f"--data_path={path}", "--dataset=tiny"]
    else:
        argv.append(f"--{option}={path}")
    before, start = listing(given), time.monotonic()
    try:
        status = main([command, *argv])
    except Worked:
        status = 0
    seconds, shown = time.monotonic() - start, capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert seconds < 20 and status in (0, 2), (seconds, status, shown.err)
    assert "Traceback" not in shown.err + shown.out and len(errors) == (status == 2), shown.err
    if status == 0:
        return None
    assert listing(given) == before and not listing(work), f"the refused command left {listing(work)}: {errors[0]}"
    return errors[0]


@pytest.mark.parametrize("damage", [pytest.param(d, marks=[] if d in QUICK else pytest.mark.slow) for d in DAMAGES])
@pytest.mark.parametrize(("command", "option"), CASES, ids=[" ".join(case) for case in CASES])
def test_a_damaged_path_is_one_line(world, stopped, tmp_path, monkeypatch, capsys, command, option, damage):
    line = run_one(world, stopped, tmp_path, monkeypatch, capsys, command, option, damage)
    unread = option in UNREAD["*"] or option in UNREAD.get(command, ())
    wrong = damage in ALWAYS_WRONG or (damage in ("swap", "missing") and option not in OUTPUTS)
    assert line or unread or not wrong, "the command took it in silence"
