"""The layers of the configuration, the kinds of its values, and what is refused with which words."""

import shutil

import pytest
import yaml

from recbole_blair import config as config_module
from recbole_blair import registry
from recbole_blair.config import Config, load_yaml, parse_value, resolve_config
from recbole_blair.errors import InputError
from recbole_blair.files.paths import props_dir
from recbole_blair.registry import find_model


def resolved(model="SASRecText", files=(), **overrides):
    return resolve_config(find_model(model), "tiny", files, overrides)


@pytest.fixture
def own_props(tmp_path, monkeypatch):
    """A copy of props/ that the test may change."""
    props = tmp_path / "props"
    shutil.copytree(props_dir(), props)
    for module in (config_module, registry):
        monkeypatch.setattr(module, "props_dir", lambda: props)
    return props


def append(path, line):
    path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + f"\n{line}\n", encoding="utf-8")


def test_each_layer_outranks_the_one_before(own_props, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    assert resolved()["learning_rate"] == 0.001
    append(own_props / "model" / "SASRecText.yaml", "learning_rate: 0.01")
    assert resolved()["learning_rate"] == 0.01
    append(own_props / "dataset" / "tiny.yaml", "learning_rate: 0.02")
    assert resolved()["learning_rate"] == 0.02
    append(first, "learning_rate: 0.03")
    assert resolved(files=[first])["learning_rate"] == 0.03
    append(second, "learning_rate: 0.04")
    assert resolved(files=[first, second])["learning_rate"] == 0.04
    assert resolved(files=[second, first])["learning_rate"] == 0.03
    assert resolved(files=[first, second], learning_rate=0.05)["learning_rate"] == 0.05


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("-2E+4", -20000.0), ("1.5e-3", 0.0015), ("0.5", 0.5), ("7", 7), ("True", True), ("~", None),
        ("", None), ("[1, 2e-1]", [1, 0.2]), ("gelu", "gelu"), ("a=b", "a=b"), ("[oops", "[oops"), ("1e-3x", "1e-3x"),
    ],
)  # fmt: skip
def test_values_are_yaml_whose_exponents_are_numbers(text, value):
    found = parse_value(text)
    assert found == value and type(found) is type(value)


def test_exponents_in_recboles_own_files_are_numbers():
    assert resolved("SASRec")["layer_norm_eps"] == 1e-12


def test_nothing_is_executed_from_a_value(tmp_path):
    sly = f"!!python/object/apply:pathlib.Path.touch [{tmp_path / 'touched'}]"
    assert parse_value(sly) == sly
    file = tmp_path / "sly.yaml"
    file.write_text(f"plm: {sly}\n")
    with pytest.raises(InputError, match=r"sly\.yaml is not valid YAML"):
        load_yaml(file)


@pytest.mark.parametrize(
    ("typed", "known"), [("learning_rat", "learning_rate"), ("adaptor_dropout", "adaptor_dropout_prob")]
)
def test_an_unknown_key_names_the_nearest(typed, known):
    with pytest.raises(InputError, match=f"unknown key '{typed}' in the command line.*Did you mean '{known}'"):
        resolved(**{typed: 0.1})


def test_an_unknown_key_of_a_file_names_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("epoch: 3\n")
    with pytest.raises(InputError, match=r"unknown key 'epoch' in .*mine\.yaml.*'epochs'"):
        resolved(files=[file])


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("epochs", 1.5, "int"), ("epochs", True, "int"), ("epochs", "ten", "int"), ("learning_rate", "fast", "float"),
        ("learning_rate", True, "float"), ("show_progress", "maybe", "bool"), ("show_progress", 1, "bool"),
        ("seeds", [1, "x"], "int"), ("seeds", "1,x", "int"), ("clip_grad_norm", "big", "float"),
        ("output_dir", True, "str"), ("plm", [1], "str"), ("threads", 0.5, "int"), ("adaptor_hidden_sizes", 1.5, "int"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused(key, value, kind):
    with pytest.raises(InputError, match=f"^{key}=.* in the command line is a .*expected {kind}"):
        resolved(**{key: value})


@pytest.mark.parametrize("key", ["hidden_size", "plm", "topk", "epochs"])
def test_an_empty_value_is_refused_where_the_default_is_not_empty(key):
    with pytest.raises(InputError, match=f"^{key} is empty in the command line"):
        resolved(**{key: None})


def test_one_value_or_a_comma_list_stands_for_a_list():
    config = resolved(seeds="1,2", baselines="SASRec, SeqPop", topk=5, adaptor_hidden_sizes="300,100", metrics="ndcg")
    assert config["seeds"] == [1, 2]
    assert config["baselines"] == ["SASRec", "SeqPop"]
    assert config["topk"] == [5]
    assert config["adaptor_hidden_sizes"] == [300, 100]
    assert config["metrics"] == ["ndcg"]


def test_the_kind_is_that_of_the_default_not_of_the_layer_below(tmp_path):
    file = tmp_path / "clip.yaml"
    file.write_text("clip_grad_norm: 1\nweight_decay: 0\n")
    config = resolved(files=[file], clip_grad_norm=0.5, weight_decay=0.25)
    assert (config["clip_grad_norm"], config["weight_decay"]) == (0.5, 0.25)
    assert resolved(learning_rate=1)["learning_rate"] == 1.0


def test_lists_of_a_dataset_can_be_emptied_again():
    assert resolve_config(find_model("SASRecText"), "sample")["seeds"]
    config = resolve_config(find_model("SASRecText"), "sample", (), {"seeds": None, "baselines": None})
    assert config["seeds"] is None and config["baselines"] is None


def test_recboles_zero_for_a_probability_takes_a_probability():
    assert resolved("SASRecCPR", hidden_dropout_prob=0.5)["hidden_dropout_prob"] == 0.5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"precision": "fp16"}, "precision='fp16' is not one of auto, fp32, bf16"),
        ({"protocol": "random"}, "protocol='random' is not one of timestamp, last_out"),
        ({"learner": "lion"}, "learner='lion' is not one of adam, adamw, sgd"),
        ({"catalogue": "some"}, "catalogue='some' is not one of interactions, all"),
        ({"softmax": "half"}, "softmax='half' is not one of full, sampled"),
        ({"train_batch_size": 0}, "train_batch_size=0 must be above 0"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be above 0"),
        ({"epochs": -1}, "epochs=-1 must be 0 or above"),
        ({"seed": -1}, "seed=-1 must be 0 or above"),
        ({"seeds": [3, -1]}, r"seeds=\[3, -1\] must be 0 or above"),
        ({"seeds": []}, "seeds is an empty list"),
        ({"MAX_ITEM_LIST_LENGTH": 60}, "MAX_ITEM_LIST_LENGTH=60 exceeds max_history=50"),
        ({"metrics": ["ndgc"]}, "metrics holds 'ndgc'.*Did you mean 'ndcg'"),
        ({"topk": [0]}, "topk holds 0"),
        ({"valid_metric": "ndcg"}, "metric 'ndcg' needs a k above 0"),
        ({"valid_metric": "precision@5"}, "unknown metric 'precision@5'; known: recall, ndcg, hit, mrr"),
    ],
)
def test_values_no_run_can_use_are_refused_with_the_legal_ones(overrides, words):
    with pytest.raises(InputError, match=words):
        resolved(**overrides)


def test_a_longer_history_is_allowed_with_rows_that_keep_it():
    assert resolved(MAX_ITEM_LIST_LENGTH=60, max_history=60)["MAX_ITEM_LIST_LENGTH"] == 60


def test_the_metric_that_stops_training_is_known_in_any_case():
    assert resolved(valid_metric="NDCG@20")["valid_metric"] == "ndcg@20"


def test_keys_of_another_model_are_dropped_only_when_asked():
    keys = {"n_exps": 4, "epochs": 3}
    config = resolve_config(find_model("SASRecText"), "tiny", (), keys, strict=False)
    assert "n_exps" not in config and config["epochs"] == 3
    with pytest.raises(InputError, match="unknown key 'n_exps'"):
        resolved(**keys)


def test_our_models_may_not_read_a_key_that_no_yaml_defines():
    with pytest.raises(KeyError, match=r"SASRecText reads 'loss_type', which SASRecText\.yaml does not define"):
        resolved()["loss_type"]
    assert resolved("SASRec")["no_such_key"] is None


def test_plain_keys_survive_yaml_and_volatile_ones_decide_nothing():
    config = resolved(seeds=[1, 2])
    again = Config(yaml.safe_load(yaml.safe_dump(config.plain())))
    assert again.fingerprint() == config.fingerprint()
    assert resolved(output_dir="a", show_progress=False, threads=2).fingerprint() == config.fingerprint()
    assert resolved(learning_rate=0.5).fingerprint() != config.fingerprint()


@pytest.mark.parametrize(
    ("text", "words"), [("- a\n- b\n", "holds a list; expected keys"), ("a: [1\n", "is not valid YAML")]
)
def test_a_config_file_that_is_no_mapping_is_refused(tmp_path, text, words):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        load_yaml(file)


def test_a_config_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the configuration file .*nowhere\.yaml: No such file"):
        resolved(files=[tmp_path / "nowhere.yaml"])


def test_a_dataset_may_have_keys_for_one_model():
    sizes = {name: resolve_config(find_model(name), "sample")["train_batch_size"] for name in ("HSTU", "SASRecText")}
    assert sizes == {"HSTU": 16, "SASRecText": 256}
    given = resolve_config(find_model("HSTU"), "sample", overrides={"train_batch_size": 8})
    assert given["train_batch_size"] == 8
