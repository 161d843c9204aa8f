"""A dataset that is not there names the builds at hand; when a finished run's encoder counts as gone."""

import json

import pytest
from builds import write_build

from recbole_blair.config import resolve_config
from recbole_blair.data.build import encoder_has_gone, ensure_build
from recbole_blair.errors import InputError
from recbole_blair.registry import find_model


def config_of(dataset, folder, **keys):
    return resolve_config(find_model("SASRec"), dataset, (), {"data_path": str(folder), **keys})


def test_an_unknown_dataset_names_the_builds_at_hand(tmp_path):
    write_build(tmp_path, {"u": [("a", 1), ("b", 2)]}, name="shop")
    folder = write_build(tmp_path, {"u": [("a", 1), ("b", 2)]}, name="books-last_out")
    settings = {"source": "csv", "dataset": "books", "protocol": "last_out"}
    (folder / "books-last_out.stats.json").write_text(json.dumps({"settings": settings, "instants": {}}))
    (tmp_path / "no_build").mkdir()
    hint = (
        r"unknown dataset 'shpo' .*Did you mean 'shop'\? Builds at hand: books --protocol=last_out, shop\. Known: All"
    )
    with pytest.raises(InputError, match=hint):
        ensure_build(config_of("shpo", tmp_path))
    with pytest.raises(InputError, match=r"Did you mean 'books'\?"):
        ensure_build(config_of("bookz", tmp_path))
    with pytest.raises(InputError, match=r"Builds at hand: none\."):
        ensure_build(config_of("shpo", tmp_path / "nowhere"))
    for n in range(10):
        write_build(tmp_path, {"u": [("a", 1), ("b", 2)]}, name=f"more{n}")
    with pytest.raises(InputError, match=r"more8 and 2 more\."):
        ensure_build(config_of("zzz", tmp_path))


def test_the_folder_of_another_protocol_is_no_dataset(tmp_path):
    """`--dataset=books-last_out` would train on its rows by the rules of timestamp."""
    folder = write_build(tmp_path, {"u": [("a", 1), ("b", 2)]}, name="books-last_out")
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    settings = {"source": "csv", "dataset": "books", "protocol": "last_out"}
    stats = {"settings": settings, "instants": {}, "format": 1, "files": files}
    (folder / "books-last_out.stats.json").write_text(json.dumps(stats))
    with pytest.raises(InputError, match=r"another protocol; pass --dataset=books --protocol=last_out$"):
        ensure_build(config_of("books-last_out", tmp_path))


@pytest.mark.parametrize(
    ("plm", "trained_with", "gone"),
    [
        ("tfidf-svd", "tfidf-svd", False),
        ("openai:text-embedding-3-small", "text-embedding-3-small", False),
        ("hyp1231/blair-roberta-base", "blair-roberta-base", False),
        ("encoders/large", "my-encoder", True),  # a relative folder that is not there reads like a hub id
        ("no folder/at all/here", "my-encoder", True),
    ],
)
def test_an_encoder_that_has_gone(plm, trained_with, gone):
    assert encoder_has_gone(plm, trained_with) == gone
