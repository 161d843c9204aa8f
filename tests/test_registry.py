"""Finding recommenders: ours, RecBole's, plugin files, installed packages; broken ones hurt nobody else."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

from recbole_blair import config, plugins, registry
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.files.paths import props_dir
from recbole_blair.registry import RECBOLE_UNSUPPORTED, find_model, list_models, unsupported_models


@pytest.fixture
def plugin_room(tmp_path, monkeypatch):
    """A folder that counts as part of recbole_blair.plugins, and a copy of props/ beside it."""
    props, room = tmp_path / "props", tmp_path / "plugins"
    shutil.copytree(props_dir(), props)
    room.mkdir()
    for module in (registry, config):
        monkeypatch.setattr(module, "props_dir", lambda: props)
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(room)])
    yield room, props
    for name in [m for m in sys.modules if m.startswith("recbole_blair.plugins.")]:
        if str(room) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package that names one good recommender and one whose module does not exist."""
    site = tmp_path / "site"
    (site / "shoprec").mkdir(parents=True)
    (site / "shoprec" / "__init__.py").write_text("")
    (site / "shoprec" / "shop.py").write_text("class ShopRec:\n    '''Knows the shop.'''\n")
    (site / "shoprec" / "ShopRec.yaml").write_text("shelves: 3  # (int)\n")
    info = site / "shoprec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shoprec\nVersion: 1.0\n")
    points = "[recbole_blair.models]\nShopRec = shoprec.shop:ShopRec\nLostRec = nowhere_at_all.lost:LostRec\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    for name in ("shoprec", "shoprec.shop"):
        sys.modules.pop(name, None)


def test_ours_and_recboles_are_listed_with_their_source():
    models = list_models()
    assert {models[n].source for n in ("UniSRecBlair", "SASRecText", "SeqPop")} == {"recbole_blair"}
    assert {models[n].source for n in ("SASRec", "GRU4Rec", "NARM")} == {"RecBole"}
    assert list(models) == sorted(models)
    assert not set(models) & set(RECBOLE_UNSUPPORTED)


def test_listing_imports_no_model():
    before = {m for m in sys.modules if m.startswith(("recbole.model.sequential", "recbole_blair.model."))}
    list_models()
    assert {m for m in sys.modules if m.startswith(("recbole.model.sequential", "recbole_blair.model."))} == before


@pytest.mark.parametrize(
    ("typed", "meant"), [("UniSRecBlar", "UniSRecBlair"), ("sasrectext", "SASRecText"), ("GRU4REC", "GRU4Rec")]
)
def test_an_unknown_name_gets_the_nearest(typed, meant):
    with pytest.raises(InputError, match=f"unknown model '{typed}'. Did you mean '{meant}'"):
        find_model(typed)


def test_without_recbole_its_models_are_said_to_be_missing(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "recbole" else real(name))
    with pytest.raises(InputError, match=r"unknown model 'SASRec'. RecBole is not installed for .*python.*, so its mo"):
        find_model("SASRec")
    assert find_model("SASRecText").name == "SASRecText"


def test_a_name_near_to_nothing_gets_the_command_that_lists_them():
    with pytest.raises(InputError, match=r"unknown model 'zzz'. A file .* `recbole-blair models` lists them all"):
        find_model("zzz")


@pytest.mark.parametrize(
    ("typed", "needs"),
    [
        ("BERT4Rec", "BERT4Rec needs its masking transform"),
        ("bert4rec", "BERT4Rec needs its masking transform"),
        ("FM", "FM needs labels and feature fields of users and items"),
        ("kgat", "KGAT needs a knowledge graph"),
        ("xgboost", "xgboost needs labels, feature fields and another library's trainer"),
    ],
)
def test_an_unsupported_model_of_recbole_says_what_it_needs(typed, needs):
    with pytest.raises(InputError, match=f"RecBole's {needs}.*which this package does not provide"):
        find_model(typed)


def test_every_model_of_recbole_runs_or_says_why_not():
    """RecBole's folder of defaults names them all; `Random` has none and is no model of ours."""
    import recbole

    names = {path.stem for path in (Path(recbole.__file__).parent / "properties/model").glob("*.yaml")}
    known = {name for name, info in list_models().items() if info.from_recbole}
    assert known | set(unsupported_models()) == names and not known & set(unsupported_models())


def test_the_list_of_recboles_models_ends_with_those_that_do_not_run(capsys):
    assert main(["models", "--source=RecBole"]) == 0
    listed, _, rest = capsys.readouterr().out.partition("do not run here; they need\n")
    assert "UniSRecBlair" not in listed and "SASRec " in listed and "BPR " in listed
    assert "a knowledge graph, .kg and .link files (a knowledge-aware model): CFKG, CKE, KGAT" in " ".join(rest.split())
    assert main(["models", "--source=plugin"]) == 0 and "RecBole" not in capsys.readouterr().out


def test_a_plugin_is_two_files(plugin_room):
    room, props = plugin_room
    (room / "myrec.py").write_text("class MyRec:\n    '''Mine.'''\n")
    with pytest.raises(InputError, match=r"plugins\.myrec is there, but not its keys: props/model/MyRec\.yaml"):
        find_model("MyRec")
    (props / "model" / "MyRec.yaml").write_text("width: 8  # (int)\n")
    info = find_model("MyRec")
    assert info.source == "plugin" and info.load_defaults() == {"width": 8}
    assert info.load_class().__doc__ == "Mine."


def test_a_broken_plugin_shows_its_error_only_when_asked_for(plugin_room, capsys):
    from recbole_blair.cli.main import main

    room, props = plugin_room
    (room / "brokenrec.py").write_text("class BrokenRec(:\n")
    (room / "lackingrec.py").write_text("import no_such_library\n\nclass LackingRec:\n    pass\n")
    (room / "emptyrec.py").write_text("\n")
    for name in ("BrokenRec", "LackingRec", "EmptyRec"):
        (props / "model" / f"{name}.yaml").write_text("width: 8\n")
    assert find_model("SASRecText").load_class().__name__ == "SASRecText"
    with pytest.raises(
        InputError, match=r"BrokenRec \(plugin.*SyntaxError: invalid syntax.*brokenrec\.py, line 1: class BrokenRec"
    ):
        find_model("BrokenRec").load_class()
    with pytest.raises(InputError, match=r"LackingRec.*ModuleNotFoundError: No module named 'no_such_library'"):
        find_model("LackingRec").load_class()
    with pytest.raises(InputError, match=r"EmptyRec.*the file has no class EmptyRec"):
        find_model("EmptyRec").load_class()
    assert main(["train", "--model=BrokenRec", "--dataset=tiny"]) == 2
    error = capsys.readouterr().err.strip()
    assert "SyntaxError" in error and "\n" not in error


def test_an_installed_package_registers_its_recommender(installed):
    info = find_model("ShopRec")
    assert info.source == "package shoprec 1.0" and info.load_defaults() == {"shelves": 3}
    assert info.load_class().__doc__ == "Knows the shop."


def test_a_package_that_cannot_be_imported_hurts_only_itself(installed):
    assert "SASRec" in list_models()
    with pytest.raises(InputError, match=r"LostRec .*No module named 'nowhere_at_all'"):
        find_model("LostRec").load_defaults()


def test_a_package_without_its_yaml_says_where_it_is_expected(installed):
    (installed / "shoprec" / "ShopRec.yaml").unlink()
    with pytest.raises(InputError, match=r"ShopRec has no defaults: .*shoprec/ShopRec\.yaml is missing"):
        find_model("ShopRec").load_defaults()
