"""Runs that were moved, and runs beside another dataset."""

import shutil

import pytest

import recbole_blair
from recbole_blair.errors import InputError

from builds import random_sequences, write_build  # isort: skip
from recommend_runs import save_run, write_text_build  # isort: skip


def open_run(run, **keys):
    return recbole_blair.load(run, device="cpu", show_progress=False, **keys)


def change_config(path, old, new, target):
    """Change a line of a config.yaml as a person may, who then deletes its first line."""
    text = path.read_text().split("\n", 1)[1]
    assert old in text
    target.write_text(text.replace(old, new))


def test_a_run_and_its_build_can_be_moved(tmp_path, plm):
    build = write_text_build(tmp_path / "data", plm)
    run = save_run(tmp_path / "run", "SASRecText", build, plm=plm)
    expected = open_run(run).recommend("u1,u2")
    moved = shutil.move(run, tmp_path / "far" / "run")
    assert open_run(moved).recommend("u1,u2").equals(expected)
    shutil.move(build, tmp_path / "other" / "tiny")
    with pytest.raises(
        InputError, match=r"the build tiny that .*run was trained on is not in .*data.*--data_path=FOLDER"
    ):
        open_run(moved)
    assert open_run(moved, data_path=tmp_path / "other").recommend("u1,u2").equals(expected)


def test_nothing_is_made_on_the_way(tmp_path, make_run, build):
    """A build that is missing is not downloaded or generated, features that are missing are not encoded."""
    copy = shutil.copytree(build, tmp_path / "data" / "tiny")
    for file in copy.glob("*.feature*"):
        file.unlink()
    with pytest.raises(InputError, match=r"feature is missing .*make it: recbole-blair encode"):
        open_run(make_run("SASRecText"), data_path=copy.parent)
    config = make_run("SeqPop") / "config.yaml"
    run = shutil.copytree(config.parent, tmp_path / "run")
    change_config(config, "dataset: tiny", "dataset: sample", run / "config.yaml")
    with pytest.raises(InputError, match="the build sample that"):
        open_run(run, data_path=tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_a_build_of_other_items_is_refused(tmp_path, make_run):
    write_build(tmp_path, random_sequences(n_users=30, n_items=30))
    for model in ("SASRec", "SeqPop"):
        with pytest.raises(
            InputError, match=r"trained on tiny with 40 items, but .*tiny has 30: it is another dataset"
        ):
            open_run(make_run(model), data_path=tmp_path)
    write_build(tmp_path, random_sequences(n_users=29, n_items=40))
    with pytest.raises(InputError, match=r"trained on tiny with \d+ train rows"):
        open_run(make_run("SASRec"), data_path=tmp_path)


def test_an_unfinished_runs_weights_must_fit(tmp_path, build):
    run = save_run(tmp_path / "run", "SASRec", build, finished=False)
    assert len(open_run(run).recommend("u1")) == 10
    write_build(tmp_path, random_sequences(n_users=30, n_items=30))
    with pytest.raises(InputError, match=r"the weights of .* do not fit SASRec on .*item_embedding.weight"):
        open_run(run, data_path=tmp_path)


def test_what_is_no_run(tmp_path, make_run):
    with pytest.raises(InputError, match=r"holds no config\.yaml: it is no run folder"):
        open_run(tmp_path)
    run = shutil.copytree(make_run("SASRec"), tmp_path / "run")
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(InputError, match="its weights are missing"):
        open_run(run)
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match="no epoch of the run is finished yet"):
        open_run(run)
    several = tmp_path / "several"
    shutil.copytree(make_run("SASRec"), several / "SASRec-1")
    change_config(several / "SASRec-1" / "config.yaml", "seeds: null", "seeds: [1]", several / "config.yaml")
    with pytest.raises(InputError, match=r"holds several runs; name one of them: .*SASRec-1"):
        open_run(several)
