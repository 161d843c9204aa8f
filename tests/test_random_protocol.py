"""The random protocol from raw files to metrics: AlphaRec, RecBole's general models, the masking, what is refused."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from builds import random_pairs, random_sequences, write_build, write_features, write_pair_build
from safetensors.torch import load_file

from recbole_blair.bench.tasks import read_values
from recbole_blair.cli.main import main
from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.pair_loader import PairLoader
from recbole_blair.errors import InputError
from recbole_blair.quick_start import run, run_many
from recbole_blair.registry import find_model, list_models
from recbole_blair.registry.build_model import build_loaders, build_model
from recbole_blair.report.collect import Options, collect
from recbole_blair.runs.evaluate_run import build_evaluator, evaluate_run
from recbole_blair.runs.open_run import open_run
from recbole_blair.schema import ITEM_ID, USER_ID
from recbole_blair.train import trainer
from recbole_blair.train.metrics import metric_values
from recbole_blair.train.runtime import runtime_config

FAST = {
    "protocol": "random", "epochs": 3, "train_batch_size": 64, "device": "cpu", "show_progress": False,
    "plm": "someone/test-encoder",
}  # fmt: skip
GENERAL = ["BPR", "LightGCN", "NeuMF", "MultiVAE", "ItemKNN", "EASE", "Pop", "DMF"]  # one of each kind of loader


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = write_pair_build(tmp_path_factory.mktemp("data"), random_pairs())
    write_features(folder)
    return str(folder.parent)


def train(data_path, folder, model="AlphaRec", **keys):
    return run(model, "pairs", data_path=data_path, output_dir=str(folder), **{**FAST, **keys})


@pytest.fixture(scope="module")
def trained(data_path, tmp_path_factory):
    """AlphaRec's run folder and metrics."""
    folder = tmp_path_factory.mktemp("random") / "run"
    return folder, train(data_path, folder, epochs=8)


def test_what_the_protocol_sets_is_used_and_recorded(trained):
    folder, metrics = trained
    written = json.loads((folder / "metrics.json").read_text())
    assert (written["protocol"], written["history_masked"]) == ("random", True)
    assert written["ties"].startswith("equal scores: a user's relevant items")
    assert {"recall@20", "ndcg@10", "recall@50"} <= set(metrics["test"])
    assert written["users"]["test"] == 60
    assert {"stopping_step: 20", "valid_metric: recall@20"} <= set((folder / "config.yaml").read_text().splitlines())


def naive_metrics(folder, split, masked_splits):
    """Rank every user's items one by one, as the definition has it; scores without ties."""
    opened = open_run(folder)
    dataset, model = opened.dataset, opened.model
    items = {s: {} for s in ("train", "valid", "test")}
    for name, own in items.items():
        for user, target in zip(dataset.rows[name].user, dataset.rows[name].target):
            own.setdefault(int(user), set()).add(int(dataset.seq_items[target]))
    recall, ndcg = [], []
    for user, relevant in sorted(items[split].items()):
        batch = PairLoader(dataset, split, 1).build(np.flatnonzero(np.asarray(dataset.rows[split].user) == user)[:1])
        with torch.inference_mode():
            scores = model.full_sort_predict(batch).view(-1).double()
        masked = set().union(*(items[s].get(user, set()) for s in masked_splits)) - relevant
        order = [int(i) for i in scores.argsort(descending=True) if i > 0 and int(i) not in masked][:10]
        gain = sum(1 / np.log2(place + 2) for place, item in enumerate(order) if item in relevant)
        ndcg.append(gain / sum(1 / np.log2(place + 2) for place in range(min(10, len(relevant)))))
        recall.append(len(relevant & set(order)) / len(relevant))
    return {"recall@10": np.mean(recall), "ndcg@10": np.mean(ndcg)}


@pytest.mark.parametrize(("split", "masked"), [("test", ["train", "valid"]), ("valid", ["train"])])
def test_every_user_is_ranked_without_the_items_of_earlier_splits(trained, split, masked):
    folder, _ = trained
    found, _ = evaluate_run(folder, split)
    for name, value in naive_metrics(folder, split, masked).items():
        assert found[name] == pytest.approx(value, abs=1e-9)


def test_the_ranks_that_are_kept_give_the_metrics(trained):
    folder, metrics = trained
    table = pq.read_table(folder / "ranks.parquet")
    user = np.unique(table["user_id"].to_numpy(), return_inverse=True)[1]
    values = metric_values(table["rank"].to_numpy(), "ndcg@10", user)
    assert len(values) == 60
    assert values.mean() == pytest.approx(metrics["test"]["ndcg@10"])
    assert table["history_length"].to_numpy().min() >= 1  # items in train and valid


@pytest.mark.parametrize("model", GENERAL)
def test_recboles_general_models_train_and_evaluate(model, data_path, tmp_path):
    metrics = train(data_path, tmp_path / "run", model)
    assert 0 <= metrics["test"]["recall@20"] <= 1
    again, _ = evaluate_run(tmp_path / "run")  # the model is built, or fitted, again
    assert again == pytest.approx(metrics["test"])
    assert metrics["epochs"] == (0 if model in ("ItemKNN", "EASE", "Pop") else 3)


@pytest.mark.slow
@pytest.mark.parametrize("model", [n for n, i in list_models().items() if i.from_recbole and i.ranks_users])
def test_every_general_model_of_recbole_that_is_listed_runs(model, data_path, tmp_path):
    train(data_path, tmp_path / "run", model, epochs=1)
    assert evaluate_run(tmp_path / "run")[0]


def test_text_is_ahead_of_popularity_where_items_have_neighbours(data_path, tmp_path):
    """Users of the generated data take neighbours on a ring; here the text is the place on it."""
    folder = tmp_path / "data" / "pairs"
    shutil.copytree(f"{data_path}/pairs", folder)
    angle = 2 * np.pi * np.arange(40) / 40
    np.stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], 1).astype(np.float32).tofile(
        folder / "pairs.someone--test-encoder.feature"
    )
    header = json.loads((folder / "pairs.someone--test-encoder.feature.json").read_text())
    header.update(width=4, bytes=40 * 4 * 4)
    header.pop("sha256", None)
    (folder / "pairs.someone--test-encoder.feature.json").write_text(json.dumps(header))
    text = train(str(folder.parent), tmp_path / "text", epochs=20, learning_rate=0.01)
    popular = train(str(folder.parent), tmp_path / "popular", "Pop")
    assert text["test"]["ndcg@10"] > 2 * popular["test"]["ndcg@10"]


def test_pop_counts_pairs_and_not_batches(data_path):
    dataset = BlairDataset(f"{data_path}/pairs")
    info = find_model("Pop")
    model = build_model(info, runtime_config(resolve_config(info, "pairs", (), {**FAST})), dataset)
    batch = PairLoader(dataset, "test", 2).build(np.array([0, 1]))
    counts = dataset.item_counts("train")
    np.testing.assert_allclose(model.full_sort_predict(batch).view(2, -1)[1], counts / counts.max())


def test_negatives_are_never_items_of_the_user(data_path):
    dataset = BlairDataset(f"{data_path}/pairs")
    info, known = find_model("BPR"), set(zip(*(x.tolist() for x in dataset.train_pairs())))
    loader = build_loaders(info, resolve_config(info, "pairs", (), FAST), dataset)["train"]
    rows = []
    for batch in loader:
        assert not known & set(zip(batch[USER_ID].tolist(), batch["neg_item_id"].tolist()))
        assert set(zip(batch[USER_ID].tolist(), batch[ITEM_ID].tolist())) <= known
        rows += batch["row"].tolist()
    assert sorted(rows) == list(range(dataset.inter_num))
    pointwise = next(iter(PairLoader(dataset, "train", 10, form="pointwise")))
    assert pointwise["label"].tolist() == [1.0] * 10 + [0.0] * 10
    positive = list(zip(pointwise[USER_ID].tolist(), pointwise[ITEM_ID].tolist()))
    assert set(positive[:10]) <= known and not set(positive[10:]) & known


@pytest.mark.parametrize("model", ["AlphaRec", "LightGCN", "MultiVAE"])
def test_a_run_that_is_stopped_ends_with_the_same_weights(model, data_path, tmp_path, monkeypatch):
    whole = train(data_path, tmp_path / "whole", model, epochs=4)

    class Killed(BaseException):
        pass

    def stop_after_two(self):
        save(self)
        if self.epoch == 2:
            raise Killed

    save = trainer.BlairTrainer.save
    monkeypatch.setattr(trainer.BlairTrainer, "save", stop_after_two)
    with pytest.raises(Killed):
        train(data_path, tmp_path / "cut", model, epochs=4)
    monkeypatch.undo()
    resumed = train(data_path, tmp_path / "cut", model, epochs=4)
    assert resumed["test"] == whole["test"]
    one, other = (load_file(tmp_path / name / "checkpoint/epoch-0004/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_seeds_and_baselines_are_one_table(data_path, tmp_path):
    results = run_many(
        "AlphaRec", "pairs", data_path=data_path, output_dir=str(tmp_path / "runs"), seeds=[1, 2],
        baselines=["Pop", "EASE"], **{**FAST, "epochs": 1},
    )  # fmt: skip
    assert [r["model"] for r in results] == ["AlphaRec"] * 2 + ["Pop"] * 2 + ["EASE"] * 2


def test_graph_models_forget_the_tables_of_other_weights(data_path, tmp_path):
    train(data_path, tmp_path / "run", "LightGCN")
    opened = open_run(tmp_path / "run")
    evaluator = build_evaluator(opened, "test")
    first = evaluator.ranks(opened.model)
    with torch.no_grad():
        opened.model.item_embedding.weight.copy_(torch.randn_like(opened.model.item_embedding.weight))
    assert not np.array_equal(first, evaluator.ranks(opened.model))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    return str(write_build(tmp_path_factory.mktemp("sequences"), random_sequences()).parent)


def test_the_wrong_protocol_is_named_in_one_line(data_path, sequences, tmp_path, capsys):
    argv = ["train", "--model=LightGCN", "--dataset=tiny", f"--data_path={sequences}", "--device=cpu"]
    assert main([*argv, f"--output_dir={tmp_path / 'a'}"]) == 2
    assert "LightGCN learns from (user, item) pairs" in (shown := capsys.readouterr().err)
    assert "--protocol=random" in shown and len(shown.strip().splitlines()) == 1
    assert main([*argv, "--protocol=random", f"--output_dir={tmp_path / 'a'}"]) == 2
    assert "tiny.train.inter has the column item_id_list" in capsys.readouterr().err
    assert main(["train", "--model=SASRec", "--dataset=pairs", f"--data_path={data_path}", "--protocol=random"]) == 2
    assert "SASRec reads histories, which the pairs of protocol=random do not have" in capsys.readouterr().err
    assert main(["train", "--model=SASRec", "--dataset=pairs", f"--data_path={data_path}", "--device=cpu"]) == 2
    assert "pairs.train.inter lacks the column item_id_list" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_models_with_a_trainer_of_their_own_are_refused():
    with pytest.raises(InputError, match="RecBole's NCL needs its own trainer"):
        find_model("NCL")


@pytest.fixture(scope="module")
def three(trained, data_path, tmp_path_factory):
    """A folder of runs: AlphaRec, LightGCN and Pop."""
    root = tmp_path_factory.mktemp("three")
    shutil.copytree(trained[0], root / "alpharec")
    for model in ("LightGCN", "Pop"):
        train(data_path, root / model, model)
    return root


def test_a_report_pairs_users(three, tmp_path):
    data = collect([three], Options(samples=200, progress=False))
    (panel,) = data["panels"]
    assert {group["label"] for group in panel["groups"]} == {"AlphaRec", "LightGCN", "Pop"}
    assert (panel["users"], panel["comparisons"]["rows"], panel["comparisons"]["users"]) == (60, 60, 60)
    means = {group["label"]: group["mean"]["ndcg@10"] for group in panel["groups"]}
    for pair in panel["comparisons"]["pairs"]:
        assert pair["difference"] == pytest.approx(means[pair["a"]] - means[pair["b"]])
        assert pair["wins"] + pair["losses"] + pair["ties"] == 60
    assert {part["by"] for part in panel["breakdowns"]} == {"new_item", "popularity", "history_length"}
    assert panel["examples"] and panel["examples"][0]["history"]
    page = tmp_path / "report.html"
    assert main(["report", str(three), f"--output={page}", "--samples=200", "--quiet"]) == 0
    assert "of each of the 60 users" in page.read_text()


def test_breakdowns_of_users_are_of_their_items_in_the_part(three, tmp_path):
    out = tmp_path / "parts.json"
    argv = ["evaluate", f"--checkpoint={three / 'alpharec'}", "--by=new_item,history_length", f"--output={out}"]
    assert main([*argv, "--device=cpu"]) == 0
    result = json.loads(out.read_text())
    by = {row["bucket"]: row for row in result["by"]["new_item"]["table"]}
    _, rank = evaluate_run(three / "alpharec")
    dataset = open_run(three / "alpharec").dataset
    known = dataset.seen_items("train")[dataset.seq_items[dataset.rows["test"].target]]
    user = np.asarray(dataset.rows["test"].user)[known]
    assert by["known item"]["recall@10"] == pytest.approx(metric_values(rank[known], "recall@10", user).mean())


def test_recommendations_for_known_users_and_for_histories(three, tmp_path, capsys):
    def recommend(model, users):
        argv = ["recommend", f"--checkpoint={three / model}", f"--users={users}", "--top=3", "--format=jsonl"]
        status = main([*argv, "--exclude_history", "--device=cpu", "--quiet"])
        return status, capsys.readouterr()

    for model in ("alpharec", "LightGCN", "Pop"):
        status, shown = recommend(model, "u1,u2")
        rows = [json.loads(line) for line in shown.out.splitlines()]
        assert status == 0 and [(row["user_id"], len(row["items"])) for row in rows] == [("u1", 3), ("u2", 3)]
    history = tmp_path / "history.jsonl"
    history.write_text(json.dumps({"user_id": "new", "item_id_list": ["i001", "i002"]}) + "\n")
    assert recommend("alpharec", history)[0] == 0
    status, shown = recommend("LightGCN", history)
    assert status == 2 and "LightGCN reads user ids: it knows only the users it was trained on" in shown.err


def test_the_values_that_a_bench_reads_are_of_users(trained):
    folder, metrics = trained
    users, values = read_values(folder, metrics)
    assert len(users) == 60 and users == sorted(users)
    assert {name: column.mean() for name, column in values.items()} == pytest.approx(metrics["test"])


def test_the_sample_has_baselines_for_pairs():
    config = resolve_config(find_model("AlphaRec"), "sample", overrides={"protocol": "random"})
    assert config["baselines"] == ["EASE", "Pop"] and config["train_batch_size"] == 256
    assert resolve_config(find_model("SASRec"), "sample")["baselines"] == ["SASRec", "SeqPop"]
