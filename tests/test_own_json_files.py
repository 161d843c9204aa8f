"""JSON files that this tool wrote and reads again to decide something: a damaged one is one line with file and fix."""

from types import SimpleNamespace

import pytest

from dataset_tools.builds.statistics_file import load_stats
from dataset_tools.counts.raw_counts import _load_kept
from dataset_tools.pretraining.review_pairs import check_settings, write_manifest
from dataset_tools.raw.download import check_revision, source_path
from recbole_blair.errors import InputError
from recbole_blair.pretrain.data import _read_manifest
from recbole_blair.pretrain.run import check_folder
from recbole_blair.search.index_dir import POOL_FILE, IndexDir
from recbole_blair.search.runs import load_metrics as load_search_metrics
from recbole_blair.text.features import read_header
from recbole_blair.train.run_folder import load_metrics
from recbole_blair.tune.sweep_dir import read_json

DAMAGES = {
    "empty": b"", "cut": b'{"settings": {', "no object": b"[1]", "bytes": b"\xff\0\xfe", "deep": b"[" * 100_000,
    "other object": b"{}",
}  # fmt: skip


def kept(folder):
    for kind in ("users", "items"):
        (folder / f"A.{kind}.parquet").touch()
    _load_kept(folder, "A", {})


def index_dir(folder):
    pool = SimpleNamespace(item_ids=["a"], texts=["b"], path="p")
    IndexDir(pool, index_dir=folder)


def revision(folder):
    (folder / "A.jsonl").touch()
    check_revision(folder / "A.jsonl", "v1")


READERS = {  # reader: the file below the folder, what reads it
    "build": ("{name}.stats.json", load_stats),
    "counts": ("A.json", kept),
    "pairs": ("A.json", lambda folder: check_settings(folder, {}, ["A"])),
    "pairs' manifest": ("A.json", lambda folder: write_manifest(folder, {})),
    "download": (".A.jsonl.source.json", revision),
    "search index": (POOL_FILE, index_dir),
    "search run": ("metrics.json", load_search_metrics),
    "run": ("metrics.json", load_metrics),
    "feature header": ("x.json", lambda folder: read_header(folder / "x.json")),
    "sweep": ("trial.json", lambda folder: read_json(folder / "trial.json")),
}
ANY_OBJECT = ("search run", "run", "sweep")  # who needs a key of it looks for it


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_one_is_one_line(tmp_path, reader, damage):
    name, read = READERS[reader]
    path = tmp_path / name.format(name=tmp_path.name)
    path.write_bytes(DAMAGES[damage])
    if damage == "other object" and reader in ANY_OBJECT:
        read(tmp_path)
        return
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    line = str(caught.value)
    assert (path.name in line or str(tmp_path) in line) and "\n" not in line and len(line) < 1000


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_pretraining_s_own_files(tmp_path, damage, monkeypatch):
    monkeypatch.setattr("recbole_blair.pretrain.run.pairs_hash", lambda pairs: "x")
    (tmp_path / "pretraining").mkdir()
    (tmp_path / "pretraining" / "config.json").write_bytes(DAMAGES[damage])
    settings = SimpleNamespace(fingerprint=lambda: {"seed": 1}, pairs="x")
    with pytest.raises(InputError, match=r"config\.json|other settings"):
        check_folder(tmp_path, settings)
    (tmp_path / "tables.json").write_bytes(DAMAGES[damage])
    assert _read_manifest(tmp_path / "tables.json") == {}  # made again


def test_the_names_are_those_that_are_written(tmp_path):
    assert source_path(tmp_path / "A.jsonl").name == ".A.jsonl.source.json"
