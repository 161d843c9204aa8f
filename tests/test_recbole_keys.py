"""RecBole's keys: taken where they mean something here, else named in one line or refused with what to write."""

import shutil
from pathlib import Path

import pytest
import yaml

from recbole_blair.cli.main import main
from recbole_blair.config import read_layers, resolve_config
from recbole_blair.config.keys import props_keys
from recbole_blair.config.recbole_keys import INTERVALS, TRANSLATED, recbole_names, unread_keys
from recbole_blair.errors import InputError
from recbole_blair.registry import find_model, list_models

LAST_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
FIVE = dict.fromkeys(INTERVALS, "[5,inf)")


def resolved(model="SASRec", **keys):
    """Return what keys of RecBole's resolve to, and the notes on them."""
    info = find_model(model)
    return resolve_config(info, "tiny", (), keys), read_layers(info, (), keys)[1]


def recbole_properties():
    import recbole

    return Path(recbole.__file__).parent / "properties"


@pytest.mark.parametrize("file", ["overall.yaml", "dataset/sample.yaml", "dataset/ml-100k.yaml"])
def test_every_key_of_recboles_files_is_known(file):
    values = yaml.safe_load((recbole_properties() / file).read_text())
    known = {*recbole_names(), *props_keys("overall.yaml").defaults}
    assert set(values) <= known, sorted(set(values) - known)


@pytest.mark.parametrize("model", ["SASRec", "BPR", "UniSRecBlair"])
def test_recboles_own_defaults_are_taken_in_silence(model):
    """All of dataset/sample.yaml and overall.yaml but the split by user, which no protocol does."""
    values = {}
    for file in ("overall.yaml", "dataset/sample.yaml"):
        values.update(yaml.safe_load((recbole_properties() / file).read_text()))
    values.pop("eval_args")
    config, notes = resolved(model, **values)
    assert notes == ["metrics (Precision: not computed here)"]
    assert (config["epochs"], config["train_batch_size"], config["checkpoint_dir"]) == (300, 2048, "saved")
    assert config["mask_history"] and config["device"] == "auto" and config["valid_metric"] == "mrr@10"


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"gpu_id": 0}, {"device": "auto"}), ({"gpu_id": "3"}, {"device": "cuda:3"}),
        ({"gpu_id": ""}, {"device": "cpu"}), ({"gpu_id": None}, {"device": "cpu"}),
        ({"use_gpu": False, "gpu_id": "0"}, {"device": "cpu"}),
        ({"gpu_id": "0", "use_gpu": False}, {"device": "cpu"}), ({"use_gpu": True}, {"device": "auto"}),
        ({"gpu_id": 1, "device": "cpu"}, {"device": "cpu"}),
        ({"topk": 5}, {"topk": [5]}), ({"metrics": "NDCG"}, {"metrics": ["ndcg"]}),
        ({"metrics": "Recall,Hit"}, {"metrics": ["recall", "hit"]}),
        ({"valid_metric": "MRR@10"}, {"valid_metric": "mrr@10"}),
        ({"clip_grad_norm": {"max_norm": 5, "norm_type": 2}}, {"clip_grad_norm": 5.0}),
        ({"clip_grad_norm": 0.5}, {"clip_grad_norm": 0.5}),
        ({"repeatable": False}, {"mask_history": True}),
        ({"repeatable": True, "mask_history": True}, {"mask_history": True}),
        ({"train_neg_sample_args": "None"}, {"train_neg_sample_args": None}),
        ({"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}, {"train_neg_sample_args": None}),
        ({"log_wandb": True}, {"log": ["wandb"]}), ({"log_wandb": False}, {"log": None}),
        ({"checkpoint_dir": "saved"}, {"checkpoint_dir": "saved", "output_dir": None}),
        ({"loss_type": "BPR"}, {"loss_type": "BPR"}),  # SASRec's own key
        ({"USER_ID_FIELD": "user_id", "ITEM_LIST_LENGTH_FIELD": "item_length"}, {"USER_ID_FIELD": "user_id"}),
        ({"load_col": {"inter": ["user_id", "rating"]}, "benchmark_filename": ["train", "valid", "test"]}, {}),
        ({"eval_args": LAST_OUT}, {"protocol": "last_out", "mask_history": False, "metrics": ["hit", "ndcg", "mrr"]}),
        ({"eval_args": {"split": {"LS": "valid_and_test"}}, "repeatable": False}, {"mask_history": True}),
        ({"eval_args": LAST_OUT, **FIVE}, {"protocol": "last_out", "core": "5-core"}),
        ({"protocol": "last_out", **FIVE}, {"mask_history": True}),
        ({"eval_args": {"mode": {"valid": "full", "test": "full"}}}, {"protocol": "timestamp"}),
        ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": None}}, {"protocol": "timestamp"}),
        ({"user_inter_num_interval": "[0,inf)", "item_inter_num_interval": None}, {"protocol": "timestamp"}),
    ],
)  # fmt: skip
def test_keys_with_a_meaning_are_taken(given, ours):
    config, _ = resolved(**given)
    assert {key: config[key] for key in ours} == ours


@pytest.mark.parametrize(
    ("shares", "whole"), [([0.8, 0.1, 0.1], [8, 1, 1]), ([0.4, 0.3, 0.3], [4, 3, 3]), ([2, 1, 1], [2, 1, 1]),
                          ([0.125, 0.125, 0.75], [1, 1, 6])],
)  # fmt: skip
def test_a_split_by_chance_is_the_random_protocol(shares, whole):
    config, notes = resolved("BPR", eval_args={"split": {"RS": shares}, "order": "RO", "group_by": "none"})
    assert (config["protocol"], config["split_shares"]) == ("random", whole) and config["mask_history"]
    assert notes == ["eval_args (protocol=random, of users with two items or more)"]


def test_keys_without_a_meaning_are_named_in_one_line():
    _, notes = resolved(state="DEBUG", worker=8, USER_ID_FIELD="session", gpu_id="1,2", normalize_all=True)
    assert sorted(notes) == [
        "USER_ID_FIELD='session' (builds call it user_id; prepare --columns=user_id=…)",
        "gpu_id (one of them is used; nproc=2 trains on as many)",
        "state='DEBUG' (the log has one level)",
        "worker=8 (batches are made in the training process)",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eval_args": {"mode": "uni100"}}, "mode='uni100' ranks against a sample; here every item is ranked"),
        ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO"}}, "group_by user is no protocol here"),
        ({"eval_args": {**LAST_OUT, "order": "RO"}}, "LS valid_and_test, TO, user"),
        ({"eval_args": {"split": {"RS": [0.7, 0.2, 0.1]}, "order": "TO", "group_by": "none"}}, "valid_start_ms"),
        ({"eval_args": {"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": "none"}}, "is no protocol here"),
        ({"eval_args": {"splitt": 1}}, r"unknown 'splitt'\. Did you mean 'split'"),
        ({"eval_args": "TO_LS,full"}, "expected split, group_by, order and mode"),
        ({"eval_args": {"split": "LS"}}, "expected one strategy"),
        ({"eval_args": LAST_OUT, "protocol": "timestamp"}, "means protocol=last_out, but protocol=timestamp"),
        (FIVE, "leave the key out after recbole-blair prepare --min_events=5 --min_item_events=5"),
        ({"eval_args": LAST_OUT, "user_inter_num_interval": "[5,inf)"}, "prepare --min_events=5, or use"),
        ({"user_inter_num_interval": "(9,inf)"}, "prepare --min_events=10, or"),
        ({"item_inter_num_interval": "[5,100]"}, r"expected an interval without end, as in \[5,inf\)"),
        ({"train_neg_sample_args": {"distribution": "popularity"}}, "one uniform negative per row"),
        ({"train_neg_sample_args": {"sample_num": 4}}, "one uniform negative per row"),
        ({"metrics": ["Precision", "MAP"]}, "metrics='Precision' .* is not one of recall, ndcg, hit, mrr"),
        ({"valid_metric": "Precision@10"}, "valid_metric='Precision@10' .* is not one of recall@K"),
        ({"gpu_id": "cuda"}, "gpu_id='cuda' .* expected numbers of GPUs joined by commas"),
        ({"use_gpu": "maybe"}, "use_gpu='maybe' .* expected True or False"),
        ({"shuffle": False}, "shuffle=False .* rows are shuffled in every epoch"),
        ({"benchmark_filename": ["part1", "part2", "part3"]}, r"name the files <dataset>\.train\.inter"),
        ({"clip_grad_norm": {"max_norm": 5, "norm_type": 1}}, "expected max_norm, and norm_type 2"),
        ({"learner": "rmsprop"}, "learner='rmsprop' .* is not one of adam, adamw, sgd"),
        ({"val_interval": {"rating": "[3,inf)"}}, "prepare --events_from, --events_until for times"),
        ({"preload_weight": {"id": "vec"}}, "plm=vectors:FILE"),
    ],
)  # fmt: skip
def test_what_would_change_results_is_refused(given, message):
    with pytest.raises(InputError, match=message) as caught:
        resolved(**given)
    assert "\n" not in str(caught.value)


def test_the_loss_of_another_model_is_refused():
    assert resolved("UniSRecBlair", loss_type="CE")[1] == []
    with pytest.raises(InputError, match=r"loss_type='BPR' .* this model trains by its own loss"):
        resolved("UniSRecBlair", loss_type="BPR")


def test_the_command_line_outranks_a_file(tmp_path):
    file = tmp_path / "recbole.yaml"
    file.write_text(yaml.safe_dump({"use_gpu": False, "eval_args": LAST_OUT, "topk": [5]}))
    config = resolve_config(find_model("SASRec"), "tiny", [file], {"gpu_id": "2", "protocol": "timestamp"})
    assert (str(config["device"]), config["protocol"], config["topk"]) == ("cuda:2", "timestamp", [5])


def test_the_table_of_keys_is_right():
    """Every rule is whole; no key is in two places; none that a model of ours reads is passed over."""
    table = unread_keys()
    assert not set(table) & {*TRANSLATED, *INTERVALS}
    for key, rule in table.items():
        assert set(rule) == {"anyway", "then", "instead"} and rule["then"] in ("note", "refuse"), key
        assert isinstance(rule["anyway"], list) and isinstance(rule["instead"], str), key
    for info in list_models().values():
        if not info.from_recbole:
            assert not set(info.load_defaults()) & set(table), info.name


def test_notes_are_printed_once_and_configurations_stay_yaml(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--model=SASRec", "--dataset=tiny", "--worker=2", "--eval_args={split: {LS: valid_and_test}}"]
    assert main([*argv, "--print_config"]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["protocol"] == "last_out" and not err
    assert out.splitlines()[-1].startswith("# note: keys of RecBole's: worker=2 (batches are made in the")
    assert main(argv) == 2  # there is no such dataset
    out, err = capsys.readouterr()
    assert out.count("note: ") == 1 and err.count("\n") == 1


def test_a_run_of_recboles_keys_lies_in_checkpoint_dir_and_goes_on(tmp_path, monkeypatch, capsys):
    """The same YAML, given again or beside --resume, is the same configuration."""
    from builds import write_build

    monkeypatch.chdir(tmp_path)
    events = [(f"i{n}", 1_600_000_000_000 + n) for n in range(5)]
    cuts = (events[3][1], events[4][1])
    write_build("dataset", {f"u{u}": events for u in range(20)}, cuts=cuts)
    file = tmp_path / "recbole.yaml"
    keys = {"checkpoint_dir": "saved", "epochs": 1, "state": "DEBUG", "repeatable": True, "metrics": ["Recall", "MAP"],
            "topk": 2, "valid_metric": "Recall@2", "use_gpu": False, "hidden_size": 8, "inner_size": 8}  # fmt: skip
    file.write_text(yaml.safe_dump(keys))
    argv = ["train", "--model=SASRec", "--dataset=tiny", f"--config_files={file}", "--show_progress=False"]
    assert main(argv) == 0
    (run,) = (tmp_path / "saved").iterdir()
    (run / "metrics.json").unlink()
    assert main(argv) == 0 and len(list((tmp_path / "saved").iterdir())) == 1
    assert main([*argv, f"--resume={run}"]) == 0
    capsys.readouterr()
    assert main([*argv, f"--resume={run}", "--repeatable=False"]) == 2
    assert "mask_history=True differs from its False" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "saved")
