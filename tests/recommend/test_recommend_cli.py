"""The two commands: formats, files, exit statuses."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import recbole_blair
from recbole_blair.cli.main import main

USERS = "u3,u0"


def call(command, run, *argv):
    return main([command, f"--checkpoint={run}", "--device=cpu", "--quiet", *argv])


@pytest.fixture(scope="module")
def expected(make_run):
    frame = recbole_blair.load(make_run("UniSRecBlair"), device="cpu", show_progress=False).recommend(USERS, 3)
    return frame.to_dict("records")


def test_every_format_holds_the_same(make_run, expected, tmp_path):
    for ending in ("jsonl", "csv", "parquet"):
        output = tmp_path / "deep" / f"top.{ending}"
        assert call("recommend", make_run("UniSRecBlair"), f"--users={USERS}", "--top=3", f"--output={output}") == 0
    lines = [json.loads(line) for line in (tmp_path / "deep/top.jsonl").read_text().splitlines()]
    assert [line["user_id"] for line in lines] == ["u3", "u0"]
    flat = [item for line in lines for item in line["items"]]
    rows = list(csv.DictReader((tmp_path / "deep/top.csv").open()))
    table = pq.read_table(tmp_path / "deep/top.parquet")
    assert table.column_names == ["user_id", "rank", "item_id", "title", "score", "source"]
    for name, found in (("jsonl", flat), ("csv", rows), ("parquet", table.to_pylist())):
        assert len(found) == 6, name
        for own, other in zip(expected, found):
            assert (other["item_id"], other["title"]) == (own["item_id"], own["title"]), name
            assert float(other["score"]) == pytest.approx(own["score"], abs=2e-6), name
    assert [(r["user_id"], int(r["rank"])) for r in rows] == [(u, k) for u in ("u3", "u0") for k in (1, 2, 3)]
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["top.csv", "top.jsonl", "top.parquet"]


def test_the_table_is_for_people(make_run, expected, capsys):
    assert call("recommend", make_run("UniSRecBlair"), f"--users={USERS}", "--top=3") == 0
    blocks = capsys.readouterr().out.strip("\n").split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["u3", "u0"]
    lines = [line for block in blocks for line in block.splitlines()[1:]]
    for own, line in zip(expected, lines):
        assert line.split() == [str(own["rank"]), f"{own['score']:.4f}", own["item_id"], *own["title"].split()]


def test_new_items_and_histories_from_files(make_run, tmp_path, capsys):
    users, items = tmp_path / "users.jsonl", tmp_path / "new.jsonl"
    users.write_text('{"user_id": "x", "item_id_list": ["i001", "N1"]}\n')
    items.write_text('{"item_id": "N1", "title": "red lamp"}\n{"item_id": "N2", "title": "blue \\"phone\\" case"}\n')
    argv = [f"--users={users}", f"--new_items={items}", "--exclude_history", "--top=99", "--format=jsonl"]
    assert call("recommend", make_run("SASRecText"), *argv) == 0
    found = {item["item_id"]: item["title"] for item in json.loads(capsys.readouterr().out)["items"]}
    assert found["N2"] == "blue ''phone'' case" and "N1" not in found and "i001" not in found and len(found) == 40


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--users=nobody"], "unknown user 'nobody'"),
        (["--users=u1", "--format=xml"], "format=xml is not one of table, jsonl, csv, parquet"),
        (["--users=u1", "--format=parquet"], "format=parquet needs a file"),
        (["--users=u1", "--top=0"], "top=0"),
        (["--users=u1", "--new_items=gone.jsonl"], "new_items=gone.jsonl is no file"),
        (["--users=u1", "--data_path=nowhere"], "the build tiny that"),
        (["--users=u1", "--request_time=soon"], "request_time=soon"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(make_run, capsys, argv, words):
    assert call("recommend", make_run("SASRecText"), *argv) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_a_bad_user_late_in_a_file_leaves_no_output(make_run, tmp_path):
    users = tmp_path / "ids.txt"
    users.write_text("\n".join([*(f"u{n}" for n in range(30)), "nobody"]))
    assert call("recommend", make_run("SASRecText"), f"--users={users}", f"--output={tmp_path / 'a.csv'}") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["ids.txt"]


@pytest.mark.parametrize("model", ["UniSRecBlair", "SASRecText", "HSTU", "HSTUBlair"])
def test_inner_products_of_exported_vectors_rank_as_the_model_does(make_run, tmp_path, model):
    assert call("export-vectors", make_run(model), f"--output_dir={tmp_path}") == 0
    items, users = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("items", "users"))
    assert items.dtype == users.dtype == np.float32 and items.flags.c_contiguous
    item_rows, user_rows = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("items", "users"))
    assert str(item_rows.schema.field("vector").type).startswith("list<") and item_rows.num_rows == 40
    np.testing.assert_array_equal(np.stack(item_rows["vector"].to_numpy()), items)
    np.testing.assert_array_equal(np.stack(user_rows["vector"].to_numpy()), users)
    ids, names = item_rows["item_id"].to_pylist(), user_rows["user_id"].to_pylist()
    loaded = recbole_blair.load(make_run(model), device="cpu", show_progress=False)
    assert ids == loaded.item_ids and len(names) == 30
    scores = loaded.score(names)
    np.testing.assert_allclose(users @ items.T, scores, rtol=1e-4, atol=1e-5)
    gap = np.diff(np.sort(scores, axis=1)).min(axis=1)
    clear = gap > 1e-5  # where scores all but tie, rounding may swap them
    assert clear.mean() > 0.3
    order = np.argsort(-(users @ items.T), axis=1)[clear]
    best = (
        loaded.recommend([n for n, c in zip(names, clear) if c], top=40, exclude_history=False)["item_id"]
        .to_numpy()
        .reshape(-1, 40)
    )
    np.testing.assert_array_equal(np.array(ids)[order], best)
    about = json.loads((tmp_path / "vectors.json").read_text())
    assert {k: about[k] for k in ("items", "users", "width", "model")} == {
        "items": 40, "users": 30, "width": items.shape[1], "model": model,
    }  # fmt: skip


def test_a_faiss_index_finds_what_recommend_finds(make_run, tmp_path):
    faiss = pytest.importorskip("faiss", reason="the search extra is not installed")
    argv = [f"--output_dir={tmp_path}", "--users=u3,u0", "--faiss"]
    assert call("export-vectors", make_run("UniSRecBlair"), *argv) == 0
    index, users = faiss.read_index(str(tmp_path / "items.faiss")), np.load(tmp_path / "users.npy")
    scores, rows = index.search(users, 3)
    best = recbole_blair.load(make_run("UniSRecBlair"), device="cpu", show_progress=False).recommend(
        "u3,u0", 3, exclude_history=False
    )
    ids = pq.read_table(tmp_path / "items.parquet")["item_id"].to_pylist()
    assert [ids[r] for r in rows.ravel()] == best["item_id"].tolist()
    np.testing.assert_allclose(scores.ravel(), best["score"], rtol=1e-4, atol=1e-5)


def test_export_without_users_and_of_models_without_vectors(make_run, tmp_path, capsys):
    assert call("export-vectors", make_run("SASRecText"), f"--output_dir={tmp_path / 'a'}", "--users=none") == 0
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"items.npy", "items.parquet", "vectors.json"}
    capsys.readouterr()
    assert call("export-vectors", make_run("SeqPop"), f"--output_dir={tmp_path / 'b'}") == 2
    assert "SeqPop does not score by an inner product" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
