"""The layers of the configuration, the kinds of its values, and what is refused with which words."""

import shutil

import pytest
import yaml

from recbole_blair import config as config_module
from recbole_blair import registry
from recbole_blair.config import Config, keys, load_yaml, parse_value, resolve_config
from recbole_blair.config.keys import comment_kind, props_keys, read_keys
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
    for module in (config_module, keys, registry):
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
    with pytest.raises(InputError, match=r"sly\.yaml line 1 is not valid YAML"):
        load_yaml(file)


@pytest.mark.parametrize(
    ("typed", "known"), [("learning_rat", "learning_rate"), ("adaptor_dropout", "adaptor_dropout_prob")]
)
def test_an_unknown_key_names_the_nearest(typed, known):
    with pytest.raises(InputError, match=f"unknown key '{typed}' in the command line.*Did you mean '{known}'"):
        resolved(**{typed: 0.1})


def test_a_wheels_user_names_the_installed_files_as_in_the_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_yaml("props/overall.yaml")["seed"] == 2020
    (tmp_path / "props").mkdir()
    (tmp_path / "props" / "overall.yaml").write_text("seed: 3\n")
    assert load_yaml("props/overall.yaml") == {"seed": 3}
    with pytest.raises(InputError, match=r"no_such\.yaml"):
        load_yaml("props/recipe/no_such.yaml")


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
        ("output_dir", True, "a path"), ("plm", [1], "a path"), ("threads", 0.5, "int"),
        ("adaptor_hidden_sizes", 1.5, "int"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused(key, value, kind):
    with pytest.raises(InputError, match=f"^{key}=.* in the command line is a .*expected .*{kind}"):
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
        ({"precision": "fp16"}, "precision='fp16' in the command line is not one of auto, fp32, bf16"),
        ({"protocol": "by_hand"}, "protocol='by_hand' in the command line is not one of timestamp, last_out, random"),
        ({"learner": "lion"}, "learner='lion' in the command line is not one of adam, adamw, sgd"),
        ({"device": "abacus"}, "device='abacus' in the command line is not one of auto, cpu, cuda, cuda:N"),
        ({"train_batch_size": 0}, "train_batch_size=0 in the command line is out of range; expected int, 1 to"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1 in the command line is out of range; expected float, above 0"),
        (
            {"learning_rate": float("nan")},
            "learning_rate=nan in the command line is not finite; expected float, above 0",
        ),
        ({"learning_rate": float("inf")}, "learning_rate=inf in the command line is not finite"),
        ({"hidden_dropout_prob": 1}, "hidden_dropout_prob=1 .* out of range; expected float, at least 0, below 1"),
        ({"epochs": 1e23}, r"epochs=1e\+23 in the command line is a float; expected int, 0 to 1,000,000"),
        ({"epochs": -1}, "epochs=-1 in the command line is out of range; expected int, 0 to 1,000,000"),
        ({"seed": -1}, "seed=-1 in the command line is out of range"),
        ({"seeds": [3, -1]}, "seeds=-1 in the command line is out of range; expected list of int, 0 to"),
        ({"seeds": []}, r"seeds=\[\] in the command line is an empty list; expected list of int"),
        ({"metrics": []}, r"metrics=\[\] in the command line is an empty list; expected list of recall, ndcg"),
        ({"adam_betas": [0.9]}, r"adam_betas=\[0.9\] in the command line has 1 values; .* 2 of them"),
        ({"MAX_ITEM_LIST_LENGTH": 60}, "MAX_ITEM_LIST_LENGTH=60 exceeds max_history=50"),
        ({"metrics": ["ndgc"]}, "metrics='ndgc' .*Did you mean 'ndcg'"),
        ({"topk": [0]}, "topk=0 in the command line is out of range; expected list of int, 1 to"),
        ({"topk": "²"}, "topk='²' in the command line is a str; expected list of int, 1 to"),
        ({"topk": "[" * 3000}, r"topk='\[+… \(3,002 characters\) in the command line is a str; expected list of int"),
        ({"topk": 10**14}, "topk=100000000000000 in the command line is out of range"),
        ({"valid_metric": "ndcg"}, "valid_metric='ndcg' in the command line is not one of recall@K, ndcg@K"),
        ({"valid_metric": "precision@5"}, "valid_metric='precision@5' in the command line is not one of recall@K"),
        ({"output_dir": "a" * 300}, "output_dir=.* has a name of 300 bytes, more than 255"),
        ({"raw_dir": "a\0b"}, "raw_dir=.* holds a character that no file can hold"),
        (
            {"memory_limit": "1GB'; DROP TABLE x"},
            "memory_limit=.* is no size of memory; expected a size",
        ),
        ({"memory_limit": "0GB"}, "memory_limit='0GB' .* is no size"),
        ({"nproc": 99999}, r"nproc=99999 .* out of range; expected int, 1 to \d+ \(the cores of this machine\)"),
        ({"threads": 0}, r"threads=0 .* out of range; expected int, 1 to \d+ \(the cores"),
        ({"plm_concurrency": 10000}, "plm_concurrency=10000 .* out of range; expected int, 1 to 256"),
        ({"plm_revision": 1e59}, r"plm_revision=1e\+59 .* is a float; expected text: put it into quotation marks"),
    ],
)
def test_values_no_run_can_use_are_refused_with_the_legal_ones(overrides, words):
    with pytest.raises(InputError, match=words):
        resolved(**overrides)


@pytest.mark.parametrize("name", ["a" * 5000, "a\nb", "a\0"])
def test_a_name_that_no_folder_can_have(name):
    with pytest.raises(InputError, match=r"^dataset=.* expected a name$"):
        resolve_config(find_model("SASRecText"), name)


def test_a_key_of_recboles_own_takes_any_finite_value():
    with pytest.raises(InputError, match="dropout_prob=nan in the command line is not finite"):
        resolved("GRU4Rec", dropout_prob=float("nan"))


@pytest.mark.parametrize("file", [*sorted(props_dir().glob("model/*.yaml")), props_dir() / "overall.yaml"])
def test_every_key_of_ours_states_its_kind(file):
    """What is read from the comment, not from the default alone."""
    overall = props_keys("overall.yaml").kinds
    text = file.read_text(encoding="utf-8")
    for key in read_keys(file).defaults:
        line = next(line for line in text.splitlines() if line.startswith(f"{key}:"))
        stated = comment_kind(line.partition(":")[2]) is not None
        assert stated != (file.name != "overall.yaml" and key in overall) or key == "train_neg_sample_args", line


@pytest.mark.parametrize(
    ("yaml_line", "value", "words"),
    [
        ("width: 8", 0, None),
        ("width: 8", 1.5, "is a float; expected int"),
        ("width: 8  # (int, >=1) of a layer", 0, "is out of range; expected int, at least 1"),
        ("width: 8  # (int, or so) of a layer", 0, None),
        ("width: 0.5  # share, above 0", -1, None),
        ("width: 0.5  # share, above 0", float("nan"), "is not finite"),
        ("width: [8, 8]  # (list of int, >=1, length 2)", "8,0", "is out of range"),
        ("width:  # (list of int, >=1)\n  - 8\n", [0], "is out of range"),
        ("width: '# (int) 8'", 5, None),
        ("width: []", "a,b", None),
    ],
)
def test_the_kind_of_a_plugins_key(tmp_path, yaml_line, value, words):
    file = tmp_path / "MyRec.yaml"
    file.write_text(yaml_line + "\n")
    found = read_keys(file)
    if words is None:
        found.check("width", value, "here")
    else:
        with pytest.raises(InputError, match=f"^width=.* in here {words}"):
            found.check("width", value, "here")


def test_a_default_outside_its_own_range_is_refused(tmp_path):
    file = tmp_path / "MyRec.yaml"
    file.write_text("width: 0  # (int, >=1)\n")
    with pytest.raises(InputError, match=r"^width=0 in its own defaults, .*MyRec\.yaml is out of range; expected int"):
        read_keys(file)


def test_a_longer_history_is_allowed_with_rows_that_keep_it():
    assert resolved(MAX_ITEM_LIST_LENGTH=60, max_history=60)["MAX_ITEM_LIST_LENGTH"] == 60


def test_the_metric_that_stops_training_is_known_in_any_case():
    assert resolved(valid_metric="NDCG@20")["valid_metric"] == "ndcg@20"


def test_keys_of_another_model_are_dropped_only_when_asked():
    given = {"n_exps": 4, "epochs": 3}
    config = resolve_config(find_model("SASRecText"), "tiny", (), given, strict=False)
    assert "n_exps" not in config and config["epochs"] == 3
    with pytest.raises(InputError, match="unknown key 'n_exps'"):
        resolved(**given)


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
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file; expected keys and values"):
        resolved(files=[tmp_path / "nowhere.yaml"])


def test_a_dataset_may_have_keys_for_one_model():
    sizes = {name: resolve_config(find_model(name), "sample")["train_batch_size"] for name in ("HSTU", "SASRecText")}
    assert sizes == {"HSTU": 16, "SASRecText": 256}
    given = resolve_config(find_model("HSTU"), "sample", overrides={"train_batch_size": 8})
    assert given["train_batch_size"] == 8
