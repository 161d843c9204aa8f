"""Odd values for every key and option of every command: status 0 or 2, one line, at once, nothing started or written.

What the commands do after their checks is stubbed. FUZZ_EXAMPLES=100000 pytest -m slow tests/test_fuzz_keys.py runs
for as long as one likes.
"""

import contextlib
import io
import os
import time
from pathlib import Path

import psutil
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_blair.cli.main import build_parser, command_names, main
from recbole_blair.config import load_yaml, model_keys
from recbole_blair.config.keys import props_keys
from recbole_blair.config.recbole_keys import INTERVALS, recbole_names, translate_layer
from recbole_blair.errors import InputError
from recbole_blair.registry import find_model

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
LIMIT_S = 20
MODELS = ("UniSRecBlair", "HSTUBlair", "SASRecID", "LRURecText", "GRU4Rec")
UNSTUBBED = ("doctor", "models")  # they only look
STUBS = [  # where the work of each command begins
    *("recbole_blair.runs.trained_encoder.copy_encoder", "recbole_blair.runs.push.packed"),
    *("recbole_blair.cli.train.train", "recbole_blair.cli.train.launch", "recbole_blair.tune.run.run_sweep"),
    *("recbole_blair.cli.pretrain.train", "recbole_blair.cli.pretrain.make_pairs", "recbole_blair.load"),
    "recbole_blair.cli.pretrain.make_pairs_of_build",
    *("recbole_blair.cli.prepare.run_amazon", "recbole_blair.cli.prepare.run_own"),
    *("recbole_blair.text.encode.encode_build", "recbole_blair.cluster.encode.encode_build_over_cluster"),
    *("recbole_blair.search.evaluate.evaluate", "recbole_blair.search.evaluate.answer"),
    *("recbole_blair.search.evaluate.compare_runs", "recbole_blair.text.encoders.load_encoder"),
    *("recbole_blair.report.evaluation.evaluate_by", "recbole_blair.report.collect.collect"),
    *("recbole_blair.reproduce.run.reproduce", "dataset_tools.pools.five_star_reviews.sample_reviews"),
    *("dataset_tools.counts.raw_counts.count_domains", "recbole_blair.bench.run.run_bench"),
    *("recbole_blair.bench.merge.merge", "recbole_blair.registry.new_model.write_text"),
    "recbole_blair.cli.example.write_bytes",
]

ODD = st.sampled_from(
    [
        *(
            "",
            "~",
            "null",
            "[]",
            "{}",
            "[~]",
            "nan",
            ".nan",
            "[.nan]",
            ".inf",
            "-.inf",
            "1e400",
            "-1",
            "0",
            "-0.0",
            "1",
        ),
        *("1e23", "99999999999999", "9" * 5000, "1e-400", "0.5", "1.0", "2", "²", "١", "1_000", "0x10", "010", "1:30"),
        *("2024-99-99", "2024-13-01", "2024-01-01", "2024-01-01T00:00:00Z", "true", "False", "yes", "on", "1,2", "a,b"),
        *(
            ",",
            ",,",
            "1,",
            "a" * 300,
            "a" * 5000,
            "é" * 200,
            "/" * 5000,
            "a/" * 3000,
            "\0",
            "a\0b",
            "\ud800",
            "\n",
            "\t",
        ),
        *("[" * 3000, "{a: " * 500, "- " * 500, "&a [*a]", "!!int x", "!!python/object:os.system x", "!!binary x"),
        *("*x", "&x", "'", '"', "%", "@", "`", "|", ">", "?", ": ", "# x", "--x", "-", "--", ".", "..", "/", "/proc/x"),
        *(
            "cuda:99",
            "cuda:-1",
            "ndcg@0",
            "ndcg@²",
            "NDCG@10",
            "recall@1e3",
            "openai:",
            "4GB",
            "0GB",
            "-4GB",
            "4GB'; x",
        ),
        *(
            "a/" * 3000,
            "~nobody/x",
            "http://[",
            "file:///x",
            "\x1b[0m",
            "\u202e",
            "💥",
            "10" * 100 + "@",
            "[1, [2]]",
            "{a: 1}",
        ),
    ]
)
TEXTS = ODD | st.text(max_size=30) | st.integers().map(str) | st.floats().map(str)
VALUES = (
    TEXTS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.lists(st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.booleans(), max_size=4)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
    | st.dates()
)


def model_key_names():
    return sorted({key for name in MODELS for key in model_keys(find_model(name)).defaults})


def flags_of(command):
    """The options of a command without --help."""
    choices = build_parser([command])._subparsers._group_actions[0].choices
    return [a.option_strings[-1][2:] for a in choices[command]._actions if a.option_strings and a.dest != "help"]


NEEDED = {  # arguments without which nothing is looked at
    "train": ["--model=UniSRecBlair", "--dataset=sample"],
    "tune": ["--model=SASRecText", "--dataset=sample", "--dry_run"],
    "pretrain": ["--pairs=pairs.jsonl"],
    "encode": ["--build=build"],
    "example": ["--output_dir=shop"],
    "prepare": ["--dataset=sample"],
    "search": ["--dataset=amazon-c4"],
    "recommend": ["--checkpoint=run", "--users=u1"],
    "similar": ["--checkpoint=run", "--items=i1"],
    "serve": ["--checkpoint=run"],
    "export-vectors": ["--checkpoint=run"],
    "export-encoder": ["--checkpoint=run", "--output_dir=out"],
    "evaluate": ["--checkpoint=run"],
    "push": ["run", "--repo=shop/games", "--dry_run"],
    "report": ["run"],
    "stats": ["sample"],
    "compare": ["query", "item"],
    "bench": ["--suite=smoke", "--plm=tfidf-svd"],
    "reproduce": ["blair-table3"],
    "build-c4": ["--dataset=sample", "--model=m"],
    "new-model": ["MyRec"],
    **{command: [] for command in UNSTUBBED},
}


@st.composite
def command_lines(draw):
    """A right command line with one to three odd values."""
    command = draw(st.sampled_from(command_names()))
    if command in ("train", "tune", "pretrain"):
        names = {"train": [], "tune": list(props_keys("tune/tune.yaml").defaults)}.get(command)
        names = list(props_keys("pretrain/pretrain.yaml").defaults) if names is None else names + model_key_names()
        names = [
            *names,
            *recbole_names(),
            "config_files",
            "engine",
            "num_workers",
            "model",
            "dataset",
            "resume",
            "plugin",
            "dry_run",
        ]
    else:
        names = flags_of(command)
    argv = [command, *NEEDED[command]]
    if command == "new-model":
        argv = draw(st.sampled_from([argv, [command, draw(TEXTS)]]))
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)) if names else ():
        text = draw(TEXTS)
        argv = [word for word in argv if not word.startswith(f"--{name}=")]
        argv += draw(st.sampled_from([[f"--{name}={text}"], [f"--{name}", text]]))
    return argv


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder to be in, and the work of every command stubbed."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "build").mkdir()
    (folder / "run").mkdir()
    (folder / "pairs.jsonl").write_text("{}\n")

    def work(*args, **kwargs):
        raise InputError("the work begins here")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name in STUBS:
            patch.setattr(name, work)
        yield folder


def check_refused_or_done(argv, folder):
    """Run a command and check what it leaves: status, one line, time, files, processes."""
    before = sorted(path for path in folder.rglob("*"))
    children = set(psutil.Process().children(recursive=True))
    out, err, started = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(argv)
    assert time.monotonic() - started < LIMIT_S
    found_problems = (status, argv[0]) == (1, "doctor")
    assert status in (0, 2) or found_problems, err.getvalue()
    lines = [line for line in err.getvalue().splitlines() if "Warning" not in line]
    assert status < 2 or (err.getvalue().count("\n") == 1 and lines[0].startswith("error: ")), err.getvalue()
    assert len(err.getvalue()) < 4000
    assert sorted(path for path in folder.rglob("*")) == before
    assert not set(psutil.Process().children(recursive=True)) - children


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=60, derandomize=True, **QUIET)
@given(command_lines())
def test_a_few_odd_command_lines(workplace, argv):
    check_refused_or_done(argv, workplace)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, **QUIET)
@given(command_lines())
def test_odd_command_lines(workplace, argv):
    check_refused_or_done(argv, workplace)


@settings(max_examples=300, derandomize=True, **QUIET)
@given(st.sampled_from(MODELS), st.data())
def test_odd_values_of_the_python_interface(model, data):
    """`resolve`'s checks alone: whatever is given, a value of its kind comes out, or InputError."""
    keys = model_keys(find_model(model))
    key, value = data.draw(st.sampled_from(sorted(keys.defaults))), data.draw(VALUES)
    try:
        found = keys.check(key, value, "here")
    except InputError as error:
        assert len(str(error)) < 2000 and key in str(error)
    else:
        kind = keys.kinds.get(key)
        assert found is None or kind is None or kind.check(found) == found


@settings(max_examples=300, derandomize=True, **QUIET)
@given(st.sampled_from(recbole_names()), VALUES)
def test_odd_values_of_recboles_keys(key, value):
    """A layer of our keys comes out, or InputError of one line."""
    try:
        values, notes = translate_layer({key: value}, "here")
    except InputError as error:
        assert len(str(error)) < 2000 and key in str(error)
    else:
        assert all(isinstance(note, str) for note in notes) and len("".join(notes)) < 2000
        assert key not in values or key in props_keys("overall.yaml").defaults or key in INTERVALS


@settings(max_examples=60, derandomize=True, **QUIET)
@given(st.dictionaries(st.sampled_from(["epochs", "plm", "topk", "model", "dataset", "x"]) | st.text(), VALUES))
def test_odd_yaml_files(workplace, values):
    file = workplace / "odd.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8", errors="surrogatepass")
    try:
        check_refused_or_done(["train", "--dataset=sample", "--model=SASRecID", f"--config_files={file}"], workplace)
    finally:
        file.unlink()


NOT_FINITE = [
    ("train", key, value)
    for key in ("learning_rate", "temperature", "weight_decay", "hidden_dropout_prob", "initializer_range")
    for value in (".nan", ".inf", "-.inf")
]


@pytest.mark.parametrize(
    ("command", "key", "value"),
    [
        *NOT_FINITE,
        *[("pretrain", key, ".nan") for key in ("learning_rate", "temperature", "mlm_weight", "sample_share")],
        *[("train", "topk", "[" * 3000), ("train", "learning_rate", "2024-99-99"), ("train", "epochs", "1e23")],
        *[(command, "raw_dir", "--") for command in ("build-c4", "prepare", "stats")],
        *[
            ("tune", "num_samples", "814298"),
            ("train", "nproc", "99999"),
            ("train", "plm_concurrency", "99999"),
            ("tune", "ray_cpus", "99999"),
        ],
        *[
            (command, "threads", n)
            for command in ("train", "prepare", "stats", "reproduce")
            for n in ["0", "-1", "1e11"]
        ],
        *[
            ("search", "bootstrap", "-1"),
            ("search", "seed", "-1"),
            ("search", "k1", ".nan"),
            ("search", "topk", "1e13"),
        ],
        *[("search", "effort", "5"), ("search", "fusion_depth", "5"), ("search", "memory_limit_mb", "0")],
        *[("report", "samples", "100000000000"), ("recommend", "top", "99999999999999"), ("evaluate", "topk", "²")],
        *[("encode", "max_length", "1000000"), ("pretrain", "max_length", "1"), ("encode", "plm_concurrency", "0")],
        *[("prepare", "memory_limit", text) for text in ("0", "-4GB", "4GB'; DROP TABLE x")],
        *[("prepare", "delimiter", ""), ("prepare", "sample_users", "-5"), ("build-c4", "concurrency", "9999")],
        *[("train", "dataset", "a" * 5000), ("train", "output_dir", "a" * 5000), ("encode", "workers", "0")],
    ],
)
def test_values_that_once_went_wrong(workplace, capsys, command, key, value):
    argv = [word for word in NEEDED[command] if not word.startswith(f"--{key}=")]
    check_refused_or_done([command, *argv, f"--{key}={value}"], workplace)
    assert main([command, *argv, f"--{key}={value}"]) == 2
    line = capsys.readouterr().err
    assert f"{key}=" in line and "the work begins here" not in line


def test_an_encoder_that_is_fitted_here_has_no_server(workplace, capsys):
    assert main(["encode", "--build=build", "--plm=tfidf-svd", "--plm_base_url=http://x"]) == 2
    assert (
        "--plm_base_url=http://x belongs to --plm=openai:NAME, but --plm=tfidf-svd; leave it out"
        in capsys.readouterr().err
    )


def test_the_stubs_are_reached(workplace, capsys):
    """Else nothing behind the parsers would be looked at."""
    for command, needed in NEEDED.items():
        if command not in ("tune", "stats", "report", *UNSTUBBED):
            assert main([command, *needed]) == 2 and "the work begins here" in capsys.readouterr().err, command


def test_every_kind_is_described_in_one_line():
    for file in ("overall.yaml", "tune/tune.yaml", "pretrain/pretrain.yaml"):
        for key, kind in props_keys(file).kinds.items():
            assert kind.describe() and "\n" not in kind.describe(), key
    assert load_yaml(Path(__file__).resolve().parents[1] / "props/overall.yaml")["epochs"] == 300
