"""JSON files that this tool wrote and reads again to decide something: a damaged one is one line with file and fix."""

import re
from pathlib import Path
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
from recbole_blair.tracking.tracking import read_kept
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
    "trackers": ("trackers.json", lambda folder: read_kept(folder / "trackers.json")),
}
ANY_OBJECT = ("search run", "run", "sweep", "trackers")  # who needs a key of it looks for it


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


# A file that is parsed without `files/`: why it may be. What is ours is compared with its checksum before.
LOADS = re.compile(
    r"json\.load\(|json\.loads\(.*(read_text|read_bytes|readline)|yaml\.(safe_|full_)?load\(|np\.load\(|torch\.load\("
    r"|(?<!def )\bload_file\(|safe_open\("
)
APART = {
    "recbole_blair/config/kinds.py": "the text of an option",
    "recbole_blair/data/binary_copy.py": "arrays, after their checksum",
    "recbole_blair/data/catalogue_dataset.py": "counts of a fetched run, whose damage is one line",
    "recbole_blair/data/feature_transforms.py": "arrays, before their checksum; damage means fitting again",
    "recbole_blair/files/checksum.py": "checksums.json",
    "recbole_blair/files/read.py": "the one way to read a user's file",
    "recbole_blair/files/yaml_loader.py": "says how it is used",
    "recbole_blair/pretrain/load.py": "heads of an encoder, whose damage is one line",
    "recbole_blair/pretrain/trainer.py": "weights, after their checksum",
    "recbole_blair/registry/__init__.py": "a plugin's Python file",
    "recbole_blair/runs/cards.py": "the front matter of a card",
    "recbole_blair/runs/hub_layout.py": "features of a fetched run, whose damage is one line",
    "recbole_blair/search/index_dir.py": "arrays and vocabulary, after their checksum",
    "recbole_blair/testing.py": "weights that it wrote itself",
    "recbole_blair/text/api_models.py": "props",
    "recbole_blair/text/features.py": "the .data_maps of upstream, which may be large",
    "recbole_blair/text/prompts.py": "props",
    "recbole_blair/text/trained/ragged_rows.py": "arrays, after their checksum",
    "recbole_blair/text/vectors.py": "vectors of the user's own",
    "recbole_blair/train/checkpoint.py": "weights and states, after their checksum",
    "dataset_tools/counts/published.py": "props",
    "dataset_tools/pools/pool_parts.py": "arrays, after their checksum",
    "dataset_tools/raw/sample.py": "the first line of generated files; damage means making them again",
}


def test_no_other_module_parses_a_file_by_itself():
    root = Path(__file__).resolve().parents[1]
    paths = [path for package in ("recbole_blair", "dataset_tools") for path in (root / package).rglob("*.py")]
    found = {str(path.relative_to(root)) for path in paths if LOADS.search(path.read_text(encoding="utf-8"))}
    assert found == set(APART)
