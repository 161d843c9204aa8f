"""The thread that writes the items: told to stop, failing, and files that go to the disk while they grow."""

import errno
import json
import os
import time

import numpy as np
import pytest
from raw_data import meta

from dataset_tools.items import item_file
from dataset_tools.items.item_file import ItemWriter
from dataset_tools.items.metadata import load_metadata
from dataset_tools.storage import synced_file
from dataset_tools.storage.duckdb_session import DuckDBSession
from dataset_tools.storage.synced_file import SyncedFile

ITEMS = 500


@pytest.fixture
def duck(tmp_path):
    folder = tmp_path / "duck"
    folder.mkdir()
    with DuckDBSession(folder, "1GB", 2, False) as duck:
        yield duck


@pytest.fixture
def metadata(tmp_path, duck):
    path = tmp_path / "meta.jsonl"
    path.write_text("\n".join(json.dumps(meta(f"B{i}", f"Thing {i}")) for i in range(ITEMS)), encoding="utf-8")
    return load_metadata(duck, path)


@pytest.mark.parametrize("all_items", [False, True])
def test_items_come_in_the_order_in_which_they_are_added(tmp_path, duck, metadata, all_items):
    added = np.random.default_rng(3).permutation(ITEMS)[:100]
    with ItemWriter(duck, metadata, tmp_path / "shop.item", False) as writer:
        for items in np.array_split(added, 9):
            writer.add(items)
        if all_items:
            writer.add(np.setdiff1d(np.arange(ITEMS), added))
        counts = writer.finish()
    ids = [line.split("\t")[0] for line in (tmp_path / "shop.item").read_text().splitlines()[1:]]
    rest = [i for i in range(ITEMS) if i not in added] if all_items else []
    assert ids == [f"B{i}" for i in [*added, *rest]]
    assert counts.items == len(ids)


def test_an_error_of_the_thread_is_raised_at_the_end(tmp_path, duck, metadata):
    with pytest.raises(FileNotFoundError), ItemWriter(duck, metadata, tmp_path / "no" / "shop.item", False) as writer:
        writer.finish()


@pytest.mark.parametrize("while_formatting", [False, True])
def test_it_stops_where_the_rows_fail(tmp_path, duck, metadata, monkeypatch, while_formatting):
    """The thread may wait for the next items, or have many before it."""
    seen = []

    def slow(lines, _, con, stopped, *more):
        seen.append(stopped)
        while while_formatting and not stopped.wait(0.01):
            pass

    monkeypatch.setattr(item_file, "format_items_into", slow)
    with pytest.raises(KeyError, match="rows"), ItemWriter(duck, metadata, tmp_path / "shop.item", False):
        while not seen:
            time.sleep(0.01)
        raise KeyError("rows")
    assert seen[0].is_set()
    assert (tmp_path / "shop.item").exists() != while_formatting


def test_a_file_goes_to_the_disk_while_it_is_written(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(synced_file, "SYNC_BYTES", 1000)
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(os.fstat(number).st_size), fsync(number)))
    with SyncedFile(tmp_path / "file") as file:
        for _ in range(20):
            file.write(b"x" * 2_000_000)  # more than the buffer
            while file._syncing and not file._syncing.done():
                time.sleep(0.001)
        assert len(synced) == 20
        file.finish()
        assert synced[-1] == 40_000_000 and len(synced) == 21
    assert (tmp_path / "file").read_bytes() == b"x" * 40_000_000


def test_a_disk_that_is_full_when_it_is_asked_for_is_an_error(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(synced_file, "SYNC_BYTES", 1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as failure, SyncedFile(tmp_path / "file") as file:
        file.write(b"x")
        file.finish()
    assert failure.value.errno == errno.ENOSPC
