"""Reading pairs: files, filter, hold-out, bad input, order, batches."""

import gzip
import json

import numpy as np
import pytest
import torch

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_sha256
from recbole_blair.files.own_json import write_own_json
from recbole_blair.pretrain.data import EpochOrder, PairCollator, RowDataset, load_pair_tables, text_key
from recbole_blair.pretrain.pair_files import pair_files
from recbole_blair.schema import MATCHED_REVIEWS, VALID_START_MS
from tests.pretrain.conftest import pair_rows

LONG = "x" * 31


def row(context=LONG, metadata=LONG, item_id="A", timestamp=1):
    return {"context": context, "metadata": metadata, "item_id": item_id, "timestamp": timestamp}


def write(path, rows):
    text = "".join(json.dumps(r) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_filter_and_time_split(tmp_path):
    rows = [
        row(item_id="early", timestamp=VALID_START_MS - 1),
        row(item_id="first", timestamp=float(VALID_START_MS)),
        row(item_id="untimed", timestamp=None),
        row(context="x" * 30),
        row(metadata="x" * 30, timestamp=VALID_START_MS),
    ]
    tables = load_pair_tables(write(tmp_path / "p.jsonl.gz", rows), tmp_path / "t", holdout="time", progress=False)
    assert tables.train["item_id"][:] == ["early", "untimed"]
    assert tables.held_out["item_id"][:] == ["first"]
    assert tables.counts == {"read": 5, "too_short": 2, "without_time": 1, "train": 2, "held_out": 1}


def test_the_contamination_report_in_the_folder_is_no_pairs(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    pairs = write(folder / "pairs.jsonl", [row()])
    (folder / MATCHED_REVIEWS).write_text('{"user_id": "u", "item_id": "A", "timestamp": 1}\n')
    assert pair_files(folder) == [pairs]


def test_share_is_a_function_of_the_pair_and_the_seed(tmp_path):
    rows = pair_rows(200)
    found = []
    for name, order, seed in (("a", rows, 0), ("b", rows[::-1], 0), ("c", rows, 1)):
        path = write(tmp_path / f"{name}.jsonl", order)
        tables = load_pair_tables(path, tmp_path / name, holdout=0.25, seed=seed, progress=False)
        found.append(set(tables.held_out["context"][:]))
        assert len(tables.train) + len(tables.held_out) == 200
    assert found[0] == found[1] != found[2]
    assert 30 <= len(found[0]) <= 70


def test_parquet_folder_gives_what_jsonl_gives(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pair_rows(30)
    (tmp_path / "shards").mkdir()
    for i in range(3):
        pq.write_table(pa.Table.from_pylist(rows[i * 10 : i * 10 + 10]), tmp_path / "shards" / f"{i}.parquet")
    parquet = load_pair_tables(tmp_path / "shards", tmp_path / "a", holdout=0.1, progress=False)
    jsonl = load_pair_tables(write(tmp_path / "p.jsonl", rows), tmp_path / "b", holdout=0.1, progress=False)
    assert parquet.train[:] == jsonl.train[:] and parquet.held_out[:] == jsonl.held_out[:]


def test_tables_are_made_again_when_the_file_changes(tmp_path):
    path = write(tmp_path / "p.jsonl", pair_rows(5))
    assert len(load_pair_tables(path, tmp_path / "t", holdout=0, progress=False).train) == 5
    stamp = (tmp_path / "t" / "train.arrow").stat().st_mtime_ns
    load_pair_tables(path, tmp_path / "t", holdout=0, progress=False)
    assert (tmp_path / "t" / "train.arrow").stat().st_mtime_ns == stamp
    write(path, pair_rows(7))
    assert len(load_pair_tables(path, tmp_path / "t", holdout=0, progress=False).train) == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"context": "a"\n', "line 1 is not JSON"),
        (b"[1]\n", "line 1 is a JSON list, not an object"),
        (
            json.dumps({"contxt": 1, "metadata": "m", "item_id": "i"}).encode() + b"\n",
            "no 'context'.* Did you mean 'contxt'",
        ),
        (json.dumps(row(item_id=3)).encode() + b"\n", "row 1: item_id is 3; expected text"),
        (json.dumps(row(timestamp="now")).encode() + b"\n", "timestamp is 'now'; expected Unix milliseconds"),
        (b'"\xff"\n', "not UTF-8"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_pair_tables(path, tmp_path / "t", holdout=0, progress=False)
    assert not list((tmp_path / "t").glob("*.json"))  # nothing that a later run takes for whole


def test_no_pairs_left_is_an_error_with_the_counts(tmp_path):
    path = write(tmp_path / "p.jsonl", [row(context="short"), row(timestamp=VALID_START_MS)])
    with pytest.raises(InputError, match=r'no pairs left to train on.*"too_short": 1.*"held_out": 1'):
        load_pair_tables(path, tmp_path / "t", holdout="time", progress=False)


def test_damaged_files_are_named(tmp_path):
    path = write(tmp_path / "p.jsonl.gz", pair_rows(300))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"p\.jsonl\.gz.*: it ends too early"):
        load_pair_tables(path, tmp_path / "t", holdout=0, progress=False)
    shard = tmp_path / "s.parquet"
    shard.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(InputError, match=r"s\.parquet: damaged"):
        load_pair_tables(shard, tmp_path / "t", holdout=0, progress=False)


def test_missing_files_and_columns_are_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(InputError, match="no such file or folder"):
        load_pair_tables(tmp_path / "none", tmp_path / "t", holdout=0, progress=False)
    with pytest.raises(InputError, match="holds no pairs"):
        load_pair_tables(tmp_path, tmp_path / "t", holdout=0, progress=False)
    pq.write_table(pa.table({"context": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no column 'metadata'"):
        load_pair_tables(tmp_path / "x.parquet", tmp_path / "t", holdout=0, progress=False)


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch, **kwargs):
        return list(EpochOrder(100, seed, lambda: epoch, **kwargs))

    assert order(1, 0) == order(1, 0) and sorted(order(1, 0)) == list(range(100))
    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)
    sizes = np.random.default_rng(0).integers(1, 1000, 100)
    grouped = order(1, 0, characters=sizes, batch=8)
    assert sorted(grouped) == list(range(100))

    def spread(rows):
        return np.mean([np.ptp(sizes[rows[i : i + 8]]) for i in range(0, 96, 8)])

    assert spread(grouped) < spread(order(1, 0)) / 4


def test_batches_hold_contexts_then_metadata(tmp_path, tokenizer):
    path = write(tmp_path / "p.jsonl", pair_rows(6, 5))
    tables = load_pair_tables(path, tmp_path / "t", holdout=0, progress=False)
    rows = RowDataset(tables.train).__getitems__([4, 0, 5])
    batch = PairCollator(tokenizer, 12, 4, tokenizer.pad_token_id)(rows)
    assert batch["row"].tolist() == [4, 0, 5]
    assert batch["item_key"].tolist() == [text_key("B004"), text_key("B000"), text_key("B000")]
    assert batch["ids"].shape == (6, 12) and int(batch["lengths"].max()) == 12
    whole = tokenizer(tables.train[4]["metadata"], truncation=True, max_length=12)["input_ids"]
    assert batch["ids"][3, : len(whole)].tolist() == whole and int(batch["lengths"][3]) == len(whole)
    assert [len(c) for c in batch["chunks"]] == [4, 2]
    assert sorted(torch.cat(batch["chunks"]).tolist()) == list(range(6))


@pytest.mark.parametrize("table", ["train.arrow", "held_out.arrow"])
def test_damaged_tables_are_made_again(tmp_path, table):
    path = write(tmp_path / "p.jsonl", [row(f"{LONG}{i}") for i in range(8)])
    load_pair_tables(path, tmp_path / "t", holdout=0.3, progress=False)
    place = tmp_path / "t" / table
    whole = place.read_bytes()
    place.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    load_pair_tables(path, tmp_path / "t", holdout=0.3, progress=False)
    assert place.read_bytes() == whole


def test_pairs_are_compared_with_their_record(tmp_path):
    path = write(tmp_path / "p.jsonl", [row(f"{LONG}{i}") for i in range(8)])
    record = {"shards": [{"file": path.name, "pairs": 8, "sha256": file_sha256(path)}]}
    write_own_json(tmp_path / "shop.json", record)
    (tmp_path / "others.json").write_text("[")  # is no record of ours
    load_pair_tables(tmp_path, tmp_path / "t" / "1", holdout=0, progress=False)
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(InputError, match=r"p\.jsonl is damaged: .*; make the pairs again in another folder"):
        load_pair_tables(tmp_path, tmp_path / "t" / "2", holdout=0, progress=False)
