"""--plugin: files of one's own are found, remembered by their runs, and named when they are lost or broken."""

import json
import shutil

import pytest
import yaml

from recbole_blair import registry
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.figures import fraction
from recbole_blair.registry import find_model, list_models, use_plugins

COUNTING = """import torch
from recbole.model.abstract_recommender import SequentialRecommender


class {name}(SequentialRecommender):
    '''Ranks items by train counts, {sign}.'''

    trains = False

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        counts = torch.as_tensor(dataset.item_counts("train"), dtype=torch.float32)
        self.register_buffer("counts", counts * config["weight"])

    def full_sort_predict(self, interaction):
        return self.counts.expand(len(interaction[self.ITEM_SEQ]), -1).clone()

    def predict(self, interaction):
        return self.counts[interaction[self.ITEM_ID]]
"""


@pytest.fixture(autouse=True)
def forget():
    """Every test starts and ends without plugin files."""
    kept = registry.PLUGIN_FILES, registry.ASKED_FOR, registry.LOST_FILES
    for store in kept:
        store.clear()
    yield
    for store in kept:
        store.clear()


def write_plugin(folder, name="CountRec", sign="most first", weight=1.0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"weight: {weight}  # (float)\nepochs: 0  # (int)\n")
    path = folder / f"{name.lower()}.py"
    path.write_text(COUNTING.format(name=name, sign=sign))
    return path


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A small build of generated reviews, made once."""
    from dataset_tools.prepare import prepare

    root = tmp_path_factory.mktemp("build")
    prepare("sample-u150-i80", data_path=root / "dataset", raw_dir=root / "raw", progress=False)
    return root


def train(build, plugin, output, *more):
    return main(
        ["train", "--model=CountRec", f"--plugin={plugin}", "--dataset=sample-u150-i80", f"--data_path={build}/dataset",
         f"--raw_dir={build}/raw", f"--output_dir={output}", "--seeds=2020", "--baselines=",
         "--show_progress=False", *more]
    )  # fmt: skip


@pytest.fixture
def run(build, tmp_path, capsys):
    """A finished run of a plugin file in a folder of its own."""
    path = write_plugin(tmp_path / "mine")
    assert train(build, path, tmp_path / "run") == 0
    capsys.readouterr()
    registry.PLUGIN_FILES.clear()
    registry.ASKED_FOR.clear()
    return tmp_path / "run"


def test_a_file_is_found_with_its_yaml_beside_it(tmp_path):
    (info,) = use_plugins(str(write_plugin(tmp_path)))
    assert find_model("CountRec") == info and info.source == "plugin file"
    assert info.load_defaults() == {"weight": 1.0, "epochs": 0}
    assert info.load_class().__name__ == "CountRec"


def test_an_edited_file_is_a_new_module(tmp_path):
    path = write_plugin(tmp_path)
    use_plugins(path)
    assert "most first" in find_model("CountRec").load_class().__doc__
    write_plugin(tmp_path, sign="least first")
    assert "least first" in find_model("CountRec").load_class().__doc__


def test_a_run_remembers_its_file_from_any_folder(run, build, tmp_path, monkeypatch, capsys):
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["plugin"] == [str(tmp_path / "mine/countrec.py")]
    assert len(json.loads((run / "metrics.json").read_text())["plugin_sha256"][0]) == 64
    monkeypatch.chdir(tmp_path.parent)
    assert main(["evaluate", f"--checkpoint={run}", "--topk=10"]) == 0
    expected = json.loads((run / "metrics.json").read_text())["test"]["ndcg@10"]
    assert fraction(expected) in capsys.readouterr().out


def test_a_relative_path_is_remembered_whole(build, tmp_path, monkeypatch):
    write_plugin(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert train(build, "mine/countrec.py", "run") == 0
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["plugin"] == [str(tmp_path / "mine/countrec.py")]


def test_a_plugin_in_a_configuration_file_counts_too(build, tmp_path, capsys):
    path = write_plugin(tmp_path / "mine")
    (tmp_path / "keys.yaml").write_text(f"plugin: {path}\n")
    assert (
        main(["train", "--model=CountRec", "--dataset=x", f"--config_files={tmp_path}/keys.yaml", "--print_config"])
        == 0
    )
    assert yaml.safe_load(capsys.readouterr().out)["plugin"] == [str(path)]


def test_a_file_that_has_moved_is_named_with_the_fix(run, tmp_path, capsys):
    shutil.move(tmp_path / "mine", tmp_path / "moved")
    assert main(["evaluate", f"--checkpoint={run}"]) == 2
    error = capsys.readouterr().err
    assert "mine/countrec.py is not there" in error and "--plugin=<path>.py" in error
    assert main(["evaluate", f"--checkpoint={run}", f"--plugin={tmp_path}/moved/countrec.py"]) == 0


def test_weights_that_do_not_fit_name_run_and_model(run, build, tmp_path, capsys):
    path = tmp_path / "mine/countrec.py"
    path.write_text(path.read_text().replace('"counts"', '"tally"').replace("self.counts", "self.tally"))
    assert main(["evaluate", f"--checkpoint={run}"]) == 2
    error = capsys.readouterr().err
    assert "the weights of" in error and "do not fit CountRec" in error and "tally" in error


BROKEN = {
    "syntax": ("class BrokenRec(:\n", r"SyntaxError: invalid syntax .*brokenrec\.py, line 1: class BrokenRec\(:"),
    "import": ("import os\nimport no_such_library\n\n\nclass BrokenRec:\n    pass\n",
               r"No module named 'no_such_library' \(.*brokenrec\.py, line 2: import no_such_library\)"),
    "at import": ("x = 1\ny = {}['key']\n\n\nclass BrokenRec:\n    pass\n", r"KeyError: 'key' \(.*line 2: y = {}"),
    "exit": ("import sys\nsys.exit(3)\n\n\nclass BrokenRec:\n    pass\n", r"SystemExit: 3 \(.*line 2: sys\.exit"),
    "no class": ("x = 1\n", r"the file has no class BrokenRec"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_shows_its_error_and_line_and_hurts_no_other(kind, tmp_path, capsys):
    source, message = BROKEN[kind]
    (tmp_path / "brokenrec.py").write_text(source)
    (tmp_path / "BrokenRec.yaml").write_text("width: 8\n")
    use_plugins(tmp_path / "brokenrec.py")
    with pytest.raises(InputError, match=message):
        find_model("BrokenRec").load_class()
    assert find_model("SASRecText").load_class().__name__ == "SASRecText"
    assert main(["models", f"--plugin={tmp_path}/brokenrec.py", "--source=plugin"]) == 0
    listed = capsys.readouterr().out
    assert "BrokenRec" in listed and "BROKEN" in listed
    assert "LRURec over frozen item text" in listed


MISTAKES = {
    "gone": (lambda folder: folder / "gone.py", r"gone\.py is not there .*--plugin=<path>\.py"),
    "no python": (lambda folder: write_plugin(folder).with_name("CountRec.yaml"), "is no Python file; expected"),
    "no yaml": (lambda folder: lone(folder, "class LoneRec:\n    pass\n"), r"LoneRec\.yaml is missing; list there"),
    "other name": (lambda folder: lone(folder, "class Other:\n    pass\n"), "no class named like the file .it holds"),
    "taken": (lambda folder: write_plugin(folder, "SASRec"), "is named like the model SASRec of RecBole"),
}  # fmt: skip


def lone(folder, source):
    (folder / "lonerec.py").write_text(source)
    return folder / "lonerec.py"


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistaken_plugin_gets_one_clear_line(kind, tmp_path):
    make, message = MISTAKES[kind]
    with pytest.raises(InputError, match=message):
        use_plugins(make(tmp_path))
    assert "LoneRec" not in list_models()


def test_a_key_the_yaml_lacks_is_named(build, tmp_path, capsys):
    path = write_plugin(tmp_path)
    path.write_text(path.read_text().replace('config["weight"]', 'config["width"]'))
    assert train(build, path, tmp_path / "run") == 2
    assert "CountRec reads 'width', which CountRec.yaml does not define" in capsys.readouterr().err


def test_an_unknown_key_names_the_files_yaml(build, tmp_path, capsys):
    assert train(build, write_plugin(tmp_path), tmp_path / "run", "--wieght=2") == 2
    error = capsys.readouterr().err
    assert "Did you mean 'weight'?" in error and str(tmp_path / "CountRec.yaml") in error


def test_the_encoder_folder_of_a_moved_run(build, tmp_path, capsys, minilm):
    """Its features are enough for the same data; without them the folder is named."""
    encoder = shutil.copytree(minilm, tmp_path / "encoder")
    data = shutil.copytree(build / "dataset", tmp_path / "dataset")
    where = [f"--data_path={data}", f"--raw_dir={build}/raw", "--seeds=2020", "--baselines="]
    argv = ["train", "--model=SASRecText", "--dataset=sample-u150-i80", *where, f"--plm={encoder}", "--epochs=1"]
    assert main([*argv, "--plm_max_length=16", "--show_progress=False", f"--output_dir={tmp_path}/run"]) == 0
    shutil.move(encoder, tmp_path / "elsewhere")
    assert main(["evaluate", f"--checkpoint={tmp_path}/run"]) == 0
    for file in (data / "sample-u150-i80").glob("*.feature*"):
        file.unlink()
    capsys.readouterr()
    assert main(["evaluate", f"--checkpoint={tmp_path}/run"]) == 2
    error = capsys.readouterr().err
    assert f"the encoder folder {encoder} of this run has gone" in error and "--plm=FOLDER" in error


@pytest.mark.parametrize("paths", [[None], [["a.py"]], 3, {"a": 1}, False])
def test_what_is_no_list_of_files_is_refused(paths):
    with pytest.raises(InputError, match=r"plugin=.* is no list of files"):
        use_plugins(paths)


@pytest.mark.parametrize("command", ["train", "tune", "recommend", "compare"])
def test_a_home_folder_that_yaml_reads_as_nothing_is_refused_by_all_commands(command, capsys):
    given = ["--checkpoint=sample"] if command == "recommend" else ["--model=SASRecText", "--dataset=sample"]
    assert main([command, *given, "--plugin=[~]"]) == 2  # `~` is YAML's null
    assert capsys.readouterr().err.count("\n") == 1
