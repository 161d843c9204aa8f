"""Finding runs, sorting them into what compares, and what is left out with its reason."""

import json
import shutil

import pytest
import yaml

from recbole_blair.errors import InputError
from recbole_blair.report.runs import build_panels, differing_keys, find_runs, mean_and_deviation

CONFIG = {"model": "M", "dataset": "Games", "learning_rate": 0.001, "seed": 1, "output_dir": "x", "plm": "a"}
METRICS = {
    "model": "M", "dataset": "Video_Games", "protocol": "timestamp", "seed": 1, "test": {"ndcg@10": 0.1},
    "rows": {"train": 9, "valid": 3, "test": 3}, "n_items": 7, "history_masked": False, "encoder": None,
}  # fmt: skip


def write_run(folder, config=(), **metrics):
    """Write the two files of a finished run."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **dict(config)}))
    (folder / "metrics.json").write_text(json.dumps({**METRICS, **metrics}))
    return folder


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    one = write_run(tmp_path / "runs/a/M-1")
    write_run(tmp_path / "runs/M-2", seed=2)
    runs, left_out = find_runs([tmp_path / "runs", one])
    assert [run.folder.name for run in runs] == ["M-2", "M-1"] and left_out == []


def test_an_unfinished_run_is_named(tmp_path):
    write_run(tmp_path / "M-1")
    (write_run(tmp_path / "M-2", seed=2) / "metrics.json").unlink()
    (tmp_path / "M-2/checkpoint").mkdir()
    runs, left_out = find_runs([tmp_path])
    assert len(runs) == 1 and left_out == [f"{tmp_path / 'M-2'} is unfinished: it has no metrics.json"]
    with pytest.raises(InputError, match=r"M-2 holds no finished run: .*; .*M-2 is unfinished"):
        find_runs([tmp_path / "M-2"])


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere is no folder; give run folders"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"holds no finished run: a run folder has config\.yaml and metrics\.json"):
        find_runs([tmp_path])
    search = write_run(tmp_path / "search")
    (search / "metrics.json").write_text('{"retriever": "bm25", "dataset": "esci"}')
    with pytest.raises(InputError, match=r"metrics\.json lacks model, protocol, .* not from a recommender's run"):
        find_runs([tmp_path])
    (search / "metrics.json").write_text('{"model": ')
    with pytest.raises(InputError, match=r"metrics\.json is not JSON"):
        find_runs([tmp_path])


def test_seeds_of_one_configuration_are_one_group(tmp_path):
    for seed in (3, 1, 2):
        where = {"seed": seed, "output_dir": f"o{seed}", "plm": f"/elsewhere/{seed}", "data_path": f"d{seed}"}
        write_run(tmp_path / f"M-{seed}", where, seed=seed)
    (panel,), _ = build_panels(find_runs([tmp_path])[0])
    (group,) = panel.groups
    assert group.label == "M" and [run.metrics["seed"] for run in group.runs] == [1, 2, 3]


def test_configurations_of_one_model_are_named_by_what_differs(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", {"learning_rate": 0.01})
    write_run(tmp_path / "c", {"model": "Other", "width": 4}, model="Other")
    (panel,), _ = build_panels(find_runs([tmp_path])[0])
    assert [group.label for group in panel.groups] == ["M · learning_rate=0.001", "M · learning_rate=0.01", "Other"]
    first, second, other = (group.label for group in panel.groups)
    assert differing_keys(panel.groups) == {
        "learning_rate": {first: 0.001, second: 0.01, other: 0.001},
        "width": {first: None, second: None, other: 4},
    }


def test_many_differences_are_counted_and_labels_stay_apart(tmp_path):
    for i in range(2):
        write_run(tmp_path / str(i), {**dict.fromkeys("abc", 1), "z": i, "y": i, "x": i, "w": i})
    write_run(tmp_path / "2", {**dict.fromkeys("abc", 1), "z": 5, "y": 0, "x": 0, "w": 0})
    (panel,), _ = build_panels(find_runs([tmp_path])[0])
    labels = [group.label for group in panel.groups]
    assert labels[0] == "M · w=0 · x=0 · y=0 · 1 more" and len(set(labels)) == 3


def test_other_data_sets_and_settings_are_panels_of_their_own(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", dataset="All_Beauty")
    write_run(tmp_path / "c", history_masked=True)
    write_run(tmp_path / "d", n_items=8)
    panels, _ = build_panels(find_runs([tmp_path])[0])
    assert len(panels) == 4


def test_the_same_run_twice_counts_once(tmp_path):
    import os

    old = write_run(tmp_path / "new_name_but_old")
    new = tmp_path / "a_later_one"
    shutil.copytree(old, new)
    os.utime(old / "metrics.json", (1, 1))
    (panel,), left_out = build_panels(find_runs([tmp_path])[0])
    assert [run.folder for run in panel.runs] == [new]
    assert left_out == [f"{old} has the configuration and seed of the newer {new}"]


def test_mean_and_deviation_by_hand():
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_deviation([4.0]) == (4.0, None)
    assert mean_and_deviation([]) == (None, None)
