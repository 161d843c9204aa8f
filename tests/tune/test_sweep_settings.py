"""Options, resources and folders of a sweep: what is refused before anything starts, and in one line."""

import json

import pytest
from sweeps import flags, tune_argv

from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.tune import sweep_dir as files
from recbole_blair.tune.run import build_sweep, resources_per_trial


@pytest.fixture
def argv(sweep_keys, space_file, tmp_path):
    return tune_argv(tmp_path / "sweep", sweep_keys, space=space_file, num_samples=4)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--metric=auc"], "metric='auc' in the sweep's options is not one of recall@K, ndcg@K, hit@K, mrr@K, mrr"),
        (["--metric=ndcg"], "metric='ndcg' in the sweep's options is not one of recall@K, ndcg@K"),
        (["--metric=ndcg@10", "--valid_metric=mrr"], "metric=ndcg@10 and valid_metric=mrr differ"),
        (["--gpus_per_trial=100"], "gpus_per_trial=100, but there are "),
        (["--gpus_per_trial=1.5"], "gpus_per_trial=1.5: a trial takes a part of one GPU"),
        (["--cpus_per_trial=3"], "cpus_per_trial=3, but there are 2 CPUs"),
        (["--scheduler=hyperband"], "scheduler='hyperband' in the sweep's options is not one of asha, pbt, none"),
        (["--search=bayes"], "search='bayes' in the sweep's options is not one of random, optuna, grid"),
        (["--search=grid"], "search=grid tries every combination of the space; leave num_samples out"),
        (["--search=optuna", "--scheduler=pbt"], "scheduler=pbt changes the keys of running trials itself"),
        (["--max_concurrent=0"], "max_concurrent=0 in the sweep's options is out of range; expected int, 1 to 4,096"),
        (["--time_budget_s=-1"], "time_budget_s=-1 in the sweep's options is out of range; expected float, above 0"),
        (["--num_sample=3"], "unknown key 'num_sample'"),
        (["--gpu_per_trial=1"], "unknown option --gpu_per_trial. Did you mean 'gpus_per_trial'?"),
        (["--seeds=1,2"], "seeds is not for a sweep"),
        (["--threads=2"], "threads is not for a sweep"),
        (["--temperature=0.1"], "unknown key 'temperature'"),
        (["--learning_rate=0.1", "--hidden_size=16"], "holds no key to try beside those that are given"),
        (["--space=nowhere.yaml"], "nowhere.yaml: no such file; expected keys and values"),
        (["--model=SeqPop"], "--model is given twice"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(argv, more, words, capsys, tmp_path):
    flat = [a for a in argv if a.split("=")[0] not in {m.split("=")[0] for m in more} or a.startswith("--model")]
    assert main([*flat, *more]) == 2
    shown = capsys.readouterr()
    assert words in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    assert not (tmp_path / "sweep").exists()  # nothing had started


def test_a_key_of_the_space_that_the_model_does_not_read(argv, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("n_exps: {choice: [1, 2]}\n")
    flat = [a for a in argv if not a.startswith("--space")]
    assert main([*flat, f"--space={tmp_path / 'bad.yaml'}"]) == 2
    assert "holds 'n_exps', which SASRecText does not read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "device", "there", "words"),
    [
        ({"gpus_per_trial": 2.0}, "auto", (8, 1), "gpus_per_trial=2, but there are 1 GPUs"),
        ({"gpus_per_trial": 0.5}, "auto", (8, 0), "gpus_per_trial=0.5, but there are 0 GPUs"),
        ({"gpus_per_trial": 0.0}, "cuda", (8, 1), "device=cuda needs gpus_per_trial above 0"),
        ({}, "cuda", (8, 0), "device=cuda needs gpus_per_trial above 0"),
    ],
)
def test_more_gpus_than_there_are(sweep_keys, space_file, options, device, there, words):
    keys = {**sweep_keys, "device": device}
    sweep = build_sweep("SASRecText", "tiny", options={"space": space_file, **options}, **keys)
    with pytest.raises(InputError, match=words):
        resources_per_trial(sweep, *there)


@pytest.mark.parametrize(
    ("given", "device", "there", "resources"),
    [(None, "auto", (8, 2), (1, 1.0)), (None, "cpu", (8, 2), (1, 0.0)), (None, "auto", (8, 0), (1, 0.0)),
     (0.5, "auto", (8, 1), (1, 0.5)), (2.0, "cuda", (8, 2), (1, 2.0))],
)  # fmt: skip
def test_gpus_of_a_trial(sweep_keys, space_file, given, device, there, resources):
    keys = {**sweep_keys, "device": device}
    sweep = build_sweep("SASRecText", "tiny", options={"space": space_file, "gpus_per_trial": given}, **keys)
    assert resources_per_trial(sweep, *there) == resources


def test_nothing_to_train(sweep_keys, space_file, capsys):
    keys = {k: v for k, v in sweep_keys.items() if k not in ("inner_size", "adaptor_hidden_sizes", "epochs")}
    assert main(["tune", "--model=SeqPop", "--dataset=tiny", *flags(keys), f"--space={space_file}"]) == 2
    assert "SeqPop with epochs=0 trains nothing" in capsys.readouterr().err


def test_a_grace_period_beyond_the_epochs_is_said(argv, capsys):
    assert main([*argv, "--grace_period=10", "--dry_run"]) == 0
    assert "asha: stops none of 9 epochs before grace_period=10" in capsys.readouterr().out


def test_dry_run_lists_what_would_be_tried_and_starts_nothing(argv, tmp_path, capsys):
    assert main([*argv, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "asha: looks after epochs [3, 9] of 9, one in 3 goes on" in shown and "2 at a time" in shown
    trials = [line for line in shown.splitlines() if line.startswith("trial")]
    assert len(trials) == 4 and all("learning_rate=" in line and "hidden_size=" in line for line in trials)
    assert not (tmp_path / "sweep").exists()
    grid = [a for a in argv if not a.startswith("--num_samples")]
    assert main([*grid, "--search=grid", "--scheduler=none", "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\ntrial") == 4 and "learning_rate=1e-05  hidden_size=16" in shown


def test_given_keys_leave_the_space_and_defaults_come_first(sweep_keys, space_file):
    options = {"space": space_file, "num_samples": 3, "defaults_first": True}
    sweep = build_sweep("SASRecText", "tiny", options=options, **sweep_keys, hidden_size=16)
    assert [sorted(t.point) for t in sweep.trials] == [[], ["learning_rate"], ["learning_rate"]]
    more = build_sweep("SASRecText", "tiny", options={**options, "num_samples": 5}, **sweep_keys, hidden_size=16)
    assert [t.point for t in more.trials[:3]] == [t.point for t in sweep.trials]  # a longer sweep begins the same


def test_run_recbole_passes_tune_on(sweep_keys, space_file, tmp_path, capsys):
    argv = tune_argv(tmp_path / "sweep", sweep_keys, space=space_file, num_samples=2)[1:]
    assert main(["train", "--tune", *argv, "--dry_run"]) == 0
    assert "sweep      SASRecText on tiny" in capsys.readouterr().out


def test_help_shows_every_option_and_one_example(capsys):
    assert main(["tune", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}:" in shown for name in ("space", "gpus_per_trial", "scheduler", "ray_address"))
    assert "example: recbole-blair tune --model=UniSRecBlair" in shown


def test_folders_of_other_things_are_refused(argv, tmp_path, capsys, sweep_keys, space_file):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.txt").write_text("mine")
    assert main(argv) == 2
    assert "is not empty and holds no sweep" in capsys.readouterr().err
    assert main(["tune", f"--resume={tmp_path / 'sweep'}"]) == 2
    assert "holds no sweep.yaml" in capsys.readouterr().err
    sweep = build_sweep("SASRecText", "tiny", options={"space": space_file}, **sweep_keys)
    files.save_sweep(tmp_path / "sweep", sweep.spec())
    assert main([*argv, "--scheduler=none"]) == 2
    assert "holds another sweep (scheduler 'asha' -> 'none')" in capsys.readouterr().err


def test_a_cut_off_line_is_dropped_and_epochs_without_a_checkpoint_are_repeated(tmp_path):
    for epoch in (1, 2, 3):
        files.append_progress(tmp_path, {"epoch": epoch, "ndcg@10": epoch / 10, "seconds": 1.0})
    with open(tmp_path / files.PROGRESS, "a") as file:
        file.write('{"epoch": 4, "ndc')
    assert [line["epoch"] for line in files.read_progress(tmp_path)] == [1, 2, 3]
    (tmp_path / "checkpoint" / "epoch-0002").mkdir(parents=True)
    files.drop_repeated(tmp_path, files.last_epoch(tmp_path))
    assert [line["epoch"] for line in files.read_progress(tmp_path)] == [1, 2]
    files.append_progress(tmp_path, {"adopted": 5, "epoch": 1, "point": {"learning_rate": 0.1}})
    files.append_progress(tmp_path, {"epoch": 2, "ndcg@10": 0.5, "seconds": 2.0})
    files.drop_repeated(tmp_path, 1)
    assert [line["epoch"] for line in files.read_progress(tmp_path)] == [1, 2, 1]
    trial = files.load_trial(
        tmp_path, {"number": 0, "point": {"learning_rate": 1.0}, "status": "planned", "error": None}
    )
    assert (trial.point, trial.status, trial.adopted) == ({"learning_rate": 0.1}, "unfinished", 1)


def test_what_a_killed_driver_could_not_write_is_mended(tmp_path):
    """Its process finished the trial; the driver was killed while it recorded that."""
    files.save_trial(tmp_path, files.Trial(0, {"learning_rate": 1.0}))
    files.save_trial(tmp_path, files.Trial(1, {"learning_rate": 2.0}))
    folder = files.trial_dir(tmp_path, 0)
    (folder / files.DONE).write_text("{}")
    (folder / files.REPORTED).mkdir()
    for place in (folder, folder / files.REPORTED):
        (place / ".trial.json.blair-0123abcd.tmp").touch()
    for trial in [*files.load_trials(tmp_path), files.Trial(2, {})]:
        files.mend_trial(tmp_path, trial)
    records = [files.read_json(files.trial_dir(tmp_path, number) / files.TRIAL) for number in range(3)]
    assert [record["status"] for record in records] == ["finished", "planned", "planned"]
    assert records[0]["point"] == {"learning_rate": 1.0} and not list(tmp_path.rglob("*.tmp"))


def test_damaged_files_are_named(tmp_path):
    folder = tmp_path / "trials" / "0000"
    folder.mkdir(parents=True)
    (folder / files.TRIAL).write_text(json.dumps({"number": 0})[:-1])
    with pytest.raises(InputError, match=r"trial\.json.*restore it, or start a new sweep"):
        files.load_trials(tmp_path)
    files.save_trial(tmp_path, files.Trial(0, {}))
    for epoch in (1, 2):
        files.append_progress(folder, {"epoch": epoch, "loss": 0.25})
    assert [line["epoch"] for line in files.load_trials(tmp_path)[0].lines] == [1, 2]
    progress = folder / files.PROGRESS
    progress.write_text(progress.read_text().replace("0.25", "0.75", 1))
    with pytest.raises(InputError, match=r"progress\.jsonl line 1 is damaged; restore it, or start a new sweep"):
        files.load_trials(tmp_path)
    files.save_sweep(tmp_path, {"keys": {"epochs": 2}})
    assert files.load_sweep(tmp_path) == {"keys": {"epochs": 2}}
    (tmp_path / files.SWEEP).write_text((tmp_path / files.SWEEP).read_text().replace("epochs: 2", "epochs: 3"))
    with pytest.raises(InputError, match=r"sweep\.yaml is damaged or was changed: its lines have another SHA-256"):
        files.load_sweep(tmp_path)
