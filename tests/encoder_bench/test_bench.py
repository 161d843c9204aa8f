"""The command: cells are made once, an encoder more makes its own alone, what is wrong is one line."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from bench_command import run_bench

from recbole_blair.bench import data, encoder_cost, tasks
from recbole_blair.bench.cells import choose_encoders, encoder_id
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.files.own_json import write_own_json
from recbole_blair.steps import commands
from recbole_blair.text.transformer import TransformerEncoder


@pytest.fixture
def calls(monkeypatch):
    """Count what is prepared, encoded, trained and searched."""
    counted = []

    def count(place, name):
        real = getattr(place, name)

        def counting(*args, **keys):
            counted.append(name)
            return real(*args, **keys)

        monkeypatch.setattr(place, name, counting)

    for place, name in (
        (data, "run_prepare"), (data, "find_queries"), (commands, "train_seeds"), (tasks, "run_search"),
        (encoder_cost, "load_encoder"),
    ):  # fmt: skip
        count(place, name)
    return counted


def test_an_encoder_more_makes_its_own_cells_alone(tiny_encoder, calls, tmp_path):
    assert run_bench(tmp_path, "--plm=tfidf-svd") == 0
    # two points of the grid and another seed; the cost of the encoder; the data of two parts
    first = ["run_prepare", "load_encoder", "train_seeds", "train_seeds", "train_seeds", "find_queries", "run_search"]
    assert calls == first
    calls.clear()
    assert run_bench(tmp_path, f"--plm=tfidf-svd,{tiny_encoder}") == 0
    assert calls == ["load_encoder", "train_seeds", "train_seeds", "train_seeds", "run_search"]
    calls.clear()
    assert run_bench(tmp_path, f"--plm={tiny_encoder},tfidf-svd") == 0
    assert calls == []


def test_builds_of_one_data_set_share_the_vectors_of_equal_texts(tiny_encoder, monkeypatch, tmp_path):
    encoded = []
    real = TransformerEncoder.encode_chunks

    def counting(self, texts, **keys):
        encoded.append(len(texts))
        return real(self, texts, **keys)

    monkeypatch.setattr(TransformerEncoder, "encode_chunks", counting)
    monkeypatch.setattr(encoder_cost, "measure", lambda *given: {})
    tasks = "--tasks=sequential,collaborative"
    assert run_bench(tmp_path, f"--plm={tiny_encoder}", "--suite=smoke", tasks, "--seeds=1") == 0
    first, second = encoded  # of the timestamp build, and what the random one has beyond it
    assert first >= 90 and second <= 100 - first
    board = json.loads(numbers(tmp_path / "out/leaderboard.html"))
    users = next(part for part in board["parts"] if part["task"] == "collaborative")
    assert users["rows"] == users["units"]  # one value per user


def test_the_results_hold_every_cell_and_seed(finished_bench):
    lines = [json.loads(line) for line in (finished_bench / "out/results.jsonl").read_text().splitlines()]
    cells = {(one["encoder"]["label"], one["task"], one["dataset"]): one for one in lines}
    assert set(cells) == {
        (label, *part)
        for label in ("tfidf-svd", "tiny")
        for part in (("sequential", "sample"), ("search-short", "generated-short"))
    }
    trained = cells["tiny", "sequential", "sample"]
    assert trained["seeds"] == [2020, 2021] and trained["setting"]["learning_rate"] in (0.003, 0.0003)
    assert trained["setting"]["learning_rate"] == max(trained["grid"], key=lambda p: p["valid"])["learning_rate"]
    means = [trained["metrics"][seed]["ndcg@10"] for seed in ("2020", "2021")]
    assert trained["value"] == pytest.approx(sum(means) / 2)
    assert trained["encoder"]["parameters"] > 10_000 and trained["encoder"]["width"] == 32
    assert str(finished_bench) not in json.dumps(lines)  # nothing of this machine
    table = pq.read_table(finished_bench / "out/results.parquet").to_pylist()
    shown = {(r["encoder"], r["seed"], r["metric"]): r["value"] for r in table if r["task"] == "sequential"}
    assert shown["tiny", 2021, "ndcg@10"] == means[1]
    values = pq.read_table(next((finished_bench / "out/cells/sequential/sample").glob("tiny-*")) / "values.parquet")
    assert set(values.column_names) >= {"seed", "group", "ndcg@10", "recall@50"}


def test_two_encoders_of_one_name_never_mix(tiny_encoder, tmp_path):
    other = tmp_path / "tiny"
    shutil.copytree(tiny_encoder, other)
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    a, b = choose_encoders(f"{tiny_encoder},{other}")
    assert a.id != b.id and a.id.startswith("tiny-") and b.id.startswith("tiny-")
    names = {encoder_id(plm) for plm in ("someone/bert", "another/bert", "hyp1231/bert", "bert")}
    assert names == {"someone--bert", "another--bert", "hyp1231--bert", "bert"}


@pytest.mark.parametrize(
    ("plm", "message"),
    [
        (",", "--plm names no encoder"),
        ("tfidf-svd,tfidf-svd", "the same encoder, or one name for two"),
        ("a=tfidf-svd,a=some/bert", "the same encoder, or one name for two"),
        ("no such thing", "no such folder, and not a hub id"),
    ],
)
def test_encoders_that_cannot_be(plm, message):
    with pytest.raises(InputError, match=message):
        choose_encoders(plm)


def one_line(capsys, status):
    """The single line of a refused command."""
    assert status == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_folder_of_another_suite_is_refused(copied_bench, capsys):
    line = one_line(capsys, run_bench(copied_bench, "--suite=slices", "--tasks=search", "--plm=tfidf-svd"))
    assert "holds a bench of suite smoke, not slices; choose another --output_dir" in line


def test_other_seeds_are_refused(copied_bench, capsys):
    line = one_line(capsys, run_bench(copied_bench, "--plm=tfidf-svd", "--seeds=1"))
    assert "was made with the seeds 2020,2021; choose another --output_dir, or delete that folder" in line


DAMAGES = {
    "cell.json": [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe"],
    "values.parquet": [b"", b"PAR1", b"\0" * 300],
}


@pytest.mark.parametrize(("name", "content"), [(name, one) for name, many in DAMAGES.items() for one in many])
def test_a_damaged_cell_is_one_line(copied_bench, capsys, name, content):
    path = copied_bench / "out/cells/sequential/sample/tfidf-svd" / name
    path.write_bytes(content)
    assert str(path) in one_line(capsys, run_bench(copied_bench, "--plm=tfidf-svd"))


def test_values_of_another_cell_are_refused(copied_bench, capsys):
    cells = copied_bench / "out/cells/sequential/sample"
    for name in ("values.parquet", "checksums.json"):
        shutil.copyfile(next(cells.glob("tiny-*")) / name, cells / "tfidf-svd" / name)
    assert "holds other values than cell.json beside it" in one_line(capsys, run_bench(copied_bench, "--plm=tfidf-svd"))


def test_a_cell_that_fails_stops_no_other(copied_bench, monkeypatch, capsys):
    def fail(*args):
        raise InputError("no luck")

    monkeypatch.setitem(tasks.TASKS, "train", fail)
    for cell in copied_bench.glob("out/cells/*/*/tfidf-svd/cell.json"):
        cell.unlink()
    assert run_bench(copied_bench, "--plm=tfidf-svd") == 1
    shown = capsys.readouterr().out
    assert "failed: sequential/sample/tfidf-svd: InputError: no luck" in shown
    assert "tfidf-svd is not compared: it lacks sequential/sample" in shown
    assert (copied_bench / "out/cells/search-short/generated-short/tfidf-svd/cell.json").is_file()


def test_benches_are_joined(copied_bench, tmp_path, capsys):
    """One encoder each in two folders gives the leaderboard of both in one."""
    wanted = json.loads(numbers(copied_bench / "out/leaderboard.html"))
    for label, folder in (("tfidf-svd", "a"), ("tiny-*", "b")):
        for cell in (copied_bench / "out/cells").glob(f"*/*/{label}"):
            target = tmp_path / folder / cell.relative_to(copied_bench / "out")
            target.mkdir(parents=True)
            for name in ("cell.json", "values.parquet"):
                shutil.copyfile(cell / name, target / name)
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    joined = tmp_path / "joined"
    assert main(["bench", "--merge", *folders, f"--output_dir={joined}", "--samples=500"]) == 0
    assert json.loads(numbers(joined / "leaderboard.html")) == wanted
    assert main(["bench", "--merge", *folders, f"--output_dir={joined}", "--samples=500"]) == 0  # nothing twice
    cell = next((tmp_path / "b/cells/search-short").glob("*/*/cell.json"))
    about = json.loads(cell.read_text())
    write_own_json(cell, {**about, "data": {"sha256": "0" * 64}})
    line = one_line(capsys, main(["bench", "--merge", *folders, f"--output_dir={tmp_path / 'c'}"]))
    assert "search-short/generated-short: tfidf-svd and tiny were measured on other data" in line


def test_a_folder_without_cells_cannot_be_joined(tmp_path, capsys):
    line = one_line(capsys, main(["bench", f"--merge={tmp_path}", f"--output_dir={tmp_path / 'c'}"]))
    assert "holds no finished cell of a bench" in line


def numbers(page):
    """The JSON that stands in a page."""
    return page.read_text().split('id="numbers">')[1].split("</script>")[0]


def test_the_plan_names_every_cell_and_writes_nothing(finished_bench, tmp_path, capsys):
    assert run_bench(finished_bench, "--plm=tfidf-svd,some/bert", "--dry_run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [
        ["done", "sequential/sample/tfidf-svd"],
        ["done", "search-short/generated-short/tfidf-svd"],
    ]
    assert lines[2].startswith("to do  sequential/sample/some--bert") and lines[-1].startswith("to do: ")
    assert run_bench(tmp_path, "--plm=tfidf-svd", "--dry_run") == 0 and list(tmp_path.iterdir()) == []
