"""The report of tiny runs: its numbers are those of metrics.json, and what cannot be shown says why."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import change_json
from report_runs import train

from recbole_blair.cli.main import main
from recbole_blair.figures import fraction
from recbole_blair.files.checksum import recorded_file
from recbole_blair.report import examples
from recbole_blair.report.collect import Options, collect
from recbole_blair.report.curves import load_curves
from recbole_blair.report.page import render

QUICK = Options(samples=200, examples=4, progress=False)


@pytest.fixture(scope="module")
def report(tiny_runs):
    return collect([tiny_runs], QUICK)


@pytest.fixture
def own_runs(tiny_runs, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(tiny_runs, tmp_path / "runs")


def saved_metrics(runs):
    """metrics.json by folder name."""
    return {path.parent.name: json.loads(path.read_text()) for path in runs.glob("*/metrics.json")}


def test_means_and_deviations_are_those_of_metrics_json(report, tiny_runs):
    saved = saved_metrics(tiny_runs)
    (panel,) = report["panels"]
    assert {group["label"] for group in panel["groups"]} == {"SASRec", "SASRecText", "SeqPop"}
    for group in panel["groups"]:
        tests = [saved[f"{group['label']}-{seed}"]["test"] for seed in (1, 2)]
        assert [run["test"] for run in group["runs"]] == tests
        for metric in tests[0]:
            values = [test[metric] for test in tests]
            assert group["mean"][metric] == pytest.approx(np.mean(values), abs=1e-15)
            assert group["deviation"][metric] == pytest.approx(np.std(values, ddof=1), abs=1e-15)
    means = [group["mean"]["ndcg@10"] for group in panel["groups"]]
    assert means == sorted(means, reverse=True)


def test_differences_are_those_of_the_means(report):
    (panel,) = report["panels"]
    means = {group["label"]: group["mean"]["ndcg@10"] for group in panel["groups"]}
    comparisons = panel["comparisons"]
    assert len(comparisons["pairs"]) == 3 and comparisons["rows"] == comparisons["users"] == 40
    for pair in comparisons["pairs"]:
        assert pair["difference"] == pytest.approx(means[pair["a"]] - means[pair["b"]])
        assert pair["p_value_holm"] >= pair["p_value"]


def test_breakdowns_add_up_to_the_whole(report):
    (panel,) = report["panels"]
    assert [part["by"] for part in panel["breakdowns"]] == ["new_item", "popularity", "history_length"]
    for part in panel["breakdowns"]:
        share = [bucket["share"] for bucket in part["buckets"]]
        assert sum(share) == pytest.approx(1)
        for group in panel["groups"]:
            parts = [cell["mean"] for cell in part["groups"][group["label"]]]
            assert np.dot(parts, share) == pytest.approx(group["mean"]["ndcg@10"])


def test_curves_are_those_of_the_log(report, tiny_runs):
    (panel,) = report["panels"]
    assert len(panel["curves"]) == 4  # SeqPop has no epochs
    assert any("SeqPop was not trained" in reason for reason in panel["missing"]["curves"])
    for curve in panel["curves"]:
        log = (tiny_runs / f"{curve['label']}-{curve['seed']}/log.txt").read_text()
        found = re.findall(r"epoch (\d+)  loss ([\d.]+)  ndcg@10 ([\d.]+)", log)
        assert [[int(e), pytest.approx(float(x), abs=1e-4)] for e, x, _ in found] == curve["loss"]
        assert [[int(e), pytest.approx(float(v), abs=6e-5)] for e, _, v in found] == curve["valid"]
        assert curve["best"] in [epoch for epoch, _ in curve["valid"]]


def test_curves_of_a_resumed_run_hold_each_epoch_once(tiny_data, tmp_path):
    folder = train("SASRec", 5, tmp_path / "run", tiny_data, epochs=3)
    whole = load_curves(folder, "ndcg@10")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=3) as writer:  # a killed run that repeats its third epoch
        writer.add_scalar("train/loss", 7.0, 3)
    again = load_curves(folder, "ndcg@10")
    assert again["loss"] == [*whole["loss"][:2], [3, 7.0]]
    assert load_curves(tmp_path, "ndcg@10") is None


def test_examples_show_what_the_ranks_say(report, tiny_runs):
    (panel,) = report["panels"]
    assert len(panel["examples"]) == 4 and panel["missing"]["examples"] == []
    for example in panel["examples"]:
        assert {one["label"] for one in example["lists"]} == {"SASRec", "SASRecText", "SeqPop"}
        for one in example["lists"]:
            row = pq.read_table(tiny_runs / f"{one['label']}-1/ranks.parquet").slice(example["row"], 1).to_pylist()[0]
            assert (row["user_id"], row["item_id"]) == (example["user"], example["target"]["id"])
            assert one["rank"] == row["rank"] and len(one["items"]) == 5
            place = [number for number, item in enumerate(one["items"], 1) if item["hit"]]
            if row["rank"] == int(row["rank"]) and row["rank"] <= 5 and one["label"] != "SeqPop":
                assert place == [row["rank"]]
            if row["rank"] > 5.5 and one["label"] != "SeqPop":  # SeqPop has ties
                assert place == []
        titles = [item["title"] for item in example["history"]]
        ids = [item["id"] for item in example["history"]]
        assert len(ids) >= 2 and all(f"title of {i}" == t or i == "i010" for i, t in zip(ids, titles))


def test_rows_of_examples_are_drawn_as_said():
    length = np.array([1, 5, 5, 5, 5, 5, 5, 1])
    best = np.array([1.0, 2, 9, 9, 3, 9, 9, 9])
    chosen = examples.choose_rows(length, best, 4)
    assert [row for row, hit in chosen if hit] == [1, 4] and len(chosen) == 4
    assert {row for row, hit in chosen if not hit} <= {2, 3, 5, 6}
    assert chosen == examples.choose_rows(length, best, 4) and chosen == sorted(chosen)
    assert len(examples.choose_rows(length, None, 50)) == 6
    assert examples.choose_rows(np.array([1]), None, 3) == [(0, False)]


def test_the_page_holds_the_numbers_twice_and_no_address(report):
    page = render(report)
    numbers = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', page, re.S)[1]
    assert json.loads(numbers) == json.loads(json.dumps(report))
    cells = re.findall(r'data-value="([^"]+)" data-run="([^"]+)" data-metric="([^"]+)"[^>]*>([\d.]+)<', page)
    assert len(cells) == 6 * 9
    for value, folder, metric, shown in cells:
        saved = json.loads(Path(folder, "metrics.json").read_text())["test"][metric]
        assert float(value) == saved and shown == fraction(saved)
    assert not re.search(r"""(src|href)=["'](?!#|data:)|url\(|@import|https?://""", page.replace(numbers, ""))
    assert "default-src 'none'" in page


def test_titles_are_no_markup(tiny_runs):
    page = render(collect([tiny_runs], Options(samples=200, examples=40, progress=False)))
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page and "<script>alert" not in page
    assert page.count("</script>") == 2


def test_runs_without_ranks_are_evaluated_again_or_named(own_runs, tmp_path):
    for seed in (1, 2):
        (own_runs / f"SASRec-{seed}/ranks.parquet").unlink()
    again = collect([own_runs], QUICK)["panels"][0]
    assert len(again["comparisons"]["pairs"]) == 3
    assert any("SASRec: 2 run(s) saved no ranks and were evaluated" in line for line in again["missing"]["comparisons"])
    skipped = collect([own_runs], Options(samples=200, examples=0, evaluate=False, progress=False))["panels"][0]
    assert len(skipped["comparisons"]["pairs"]) == 1
    assert any("was not evaluated again" in line for line in skipped["missing"]["comparisons"])
    assert set(skipped["breakdowns"][0]["groups"]) == {"SASRecText", "SeqPop"}
    assert "was not evaluated again" in render({**collect([own_runs], QUICK), "panels": [skipped]})


def test_ranks_of_another_evaluation_are_refused(own_runs):
    path = own_runs / "SASRec-1/ranks.parquet"
    table = pq.read_table(path)
    better = pa.array(np.maximum(1.0, table["rank"].to_numpy() / 2))
    with recorded_file(path) as temporary:
        pq.write_table(table.set_column(table.schema.get_field_index("rank"), "rank", better), temporary)
    panel = collect([own_runs], QUICK)["panels"][0]
    assert any("is not of the evaluation in metrics.json: its recall@10" in x for x in panel["missing"]["comparisons"])
    assert len(panel["comparisons"]["pairs"]) == 1


def test_weights_and_data_that_are_gone_are_named(own_runs, tmp_path):
    shutil.rmtree(own_runs / "SASRec-1/checkpoint")
    panel = collect([own_runs], QUICK)["panels"][0]
    assert {one["label"] for one in panel["examples"][0]["lists"]} == {"SASRecText", "SeqPop"}
    assert any(
        "SASRec-1 holds no checkpoint/best.safetensors: the run is finished, but its weights are missing" in line
        for line in panel["missing"]["examples"]
    )
    gone = Options(samples=200, progress=False, data_path=str(tmp_path / "nowhere"))
    report = collect([own_runs], gone)
    panel = report["panels"][0]
    assert panel["examples"] == [] and [part["by"] for part in panel["breakdowns"]] == ["history_length"]
    reasons = panel["missing"]["examples"] + panel["missing"]["breakdowns"]
    assert any("the build tiny that" in line and "by --data_path=FOLDER" in line for line in reasons)
    assert "the build tiny that" in render(report)


def test_one_run_alone_has_a_page(tiny_runs):
    report = collect([tiny_runs / "SASRec-1"], QUICK)
    panel = report["panels"][0]
    assert panel["comparisons"] is None and panel["groups"][0]["deviation"]["ndcg@10"] is None
    page = render(report)
    assert "nothing to compare it with" in page and "highest" not in page


def test_another_data_set_gets_a_part_of_its_own(own_runs, tmp_path, capsys):
    path = own_runs / "SeqPop-2/metrics.json"
    change_json(path, '"dataset": "tiny"', '"dataset": "other"')
    output = tmp_path / "page.html"
    flags = ["--quiet", "--samples=100", "--examples=1", f"--output={output}"]
    assert main(["report", str(own_runs), *flags]) == 0
    shown = capsys.readouterr().out
    assert "tiny, timestamp: 5 run(s) of 3" in shown and "other, timestamp: 1 run(s) of 1" in shown
    page = output.read_text()
    assert "Not comparable with each other" in page and page.count('<h2 id="panel-') == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["RUNS", "--by=age"], "--by=age: known are"),
        (["RUNS", "--metric=ndcg@7"], "has no ndcg@7; choose --metric from what it has: recall@10"),
        (["RUNS", "--metric=map"], "--metric=map is not one of recall@K"),
        (["RUNS", "--output=report.pdf"], "expected the name of a page"),
        (["RUNS", "--samples=5"], "--samples=5 is out of range; expected int, 100 to 1,000,000"),
    ],
)
def test_wrong_use_is_one_line(tiny_runs, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    flags = [str(tiny_runs) if flag == "RUNS" else flag for flag in flags]
    assert main(["report", *flags, "--quiet"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error
    assert list(tmp_path.iterdir()) == []


def test_damaged_events_are_named(own_runs):
    (path,) = (own_runs / "SASRec-1").glob("events.out.tfevents.*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    panel = collect([own_runs], QUICK)["panels"][0]
    assert any(f"{path.name} is damaged" in line for line in panel["missing"]["curves"])
