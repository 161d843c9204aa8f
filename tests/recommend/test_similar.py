"""Similar items: the cosine of two vectors, by a plain loop."""

import json

import numpy as np
import pytest

import recbole_blair
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError


def nearest(table, own, top):
    """Rows nearest to row `own` by cosine, itself left out."""
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosine = unit @ unit[own]
    order = [i for i in np.argsort(-cosine, kind="stable") if i != own]
    return order[:top], cosine[order[:top]]


@pytest.mark.parametrize(("model", "by"), [("UniSRecBlair", "model"), ("SASRecText", "model"), ("SASRecText", "text")])
def test_neighbours_are_the_nearest_by_cosine(make_run, model, by):
    loaded = recbole_blair.load(make_run(model), device="cpu", show_progress=False)
    table = loaded.encode(items="all") if by == "model" else loaded.scorer.model.item_texts(None).numpy()
    found = loaded.similar("i005,i011", top=6, by=by)
    assert found.columns.tolist() == ["item_id", "rank", "similar_id", "title", "score"]
    for item in ("i005", "i011"):
        rows, cosine = nearest(table, loaded.item_ids.index(item), 6)
        part = found[found["item_id"] == item]
        assert part["rank"].tolist() == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose(part["score"], cosine, rtol=1e-4, atol=1e-5)
        assert part["similar_id"].tolist() == [loaded.item_ids[i] for i in rows]
        assert part["title"].tolist() == [loaded.titles[i] for i in rows]


def test_filters_new_items_and_small_chunks(make_run):
    loaded = recbole_blair.load(make_run("SASRecText", max_score_elements=41), device="cpu", show_progress=False)
    loaded.similar("i005", by="text")  # the catalogue grows behind it
    title = "red lamp cotton"
    loaded.add_items([{"item_id": "N1", "title": title}, {"item_id": "N2", "title": title}])
    for by in ("model", "text"):
        assert loaded.similar(["N1", "i003"], top=1, by=by)["similar_id"].tolist()[0] == "N2"
    some = loaded.similar(["i001", "i002"], allow=["i001", "i002", "i003"], skip_unknown=True)
    assert some["similar_id"].value_counts().to_dict() == {"i003": 2, "i001": 1, "i002": 1}
    assert loaded.similar(["B9", "i002"], top=1, skip_unknown=True)["item_id"].tolist() == ["i002"]
    assert loaded.similar(["B9"], skip_unknown=True).empty


def test_what_is_refused(make_run):
    loaded = recbole_blair.load(make_run("SASRec"), device="cpu", show_progress=False)
    with pytest.raises(InputError, match="SASRec does not score by an inner product"):
        loaded.similar("i001")
    with pytest.raises(InputError, match="SASRec reads no text features"):
        loaded.similar("i001", by="text")
    with pytest.raises(InputError, match="by='sound' is not one of model, text"):
        loaded.similar("i001", by="sound")
    with pytest.raises(InputError, match=r"unknown item 'B9' \(1 of 2\)"):
        loaded.similar("i001,B9")
    with pytest.raises(InputError, match="no item in ''"):
        loaded.similar("")


def test_the_command_reads_a_file_and_writes_one(make_run, tmp_path, capsys):
    items, output = tmp_path / "items.txt", tmp_path / "near.jsonl"
    items.write_text("i004\ni001\n")
    argv = ["similar", f"--checkpoint={make_run('UniSRecBlair')}", "--device=cpu", "--quiet", "--top=2"]
    assert main([*argv, f"--items={items}", f"--output={output}"]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["item_id"] for line in lines] == ["i004", "i001"] and len(lines[0]["items"]) == 2
    assert main([*argv, "--items=i004"]) == 0
    assert capsys.readouterr().out.startswith("i004\n    1 ")
    assert main([*argv, "--items=B9"]) == 2
    assert "unknown item 'B9'" in capsys.readouterr().err
