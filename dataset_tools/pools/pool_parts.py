"""The parts of a candidate pool, one per domain, kept until all are there: an interrupted run goes on behind them."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from dataset_tools.raw.raw_files import MAX_BROKEN_SHARE, describe_line, json_lines, line_number_of, reading
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_recorded, recorded_file
from recbole_blair.files.write import whole_file, write_text
from recbole_blair.schema import ITEM_ID
from recbole_blair.text.item_text import item_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dataset_tools.storage.resources import Resources

ROWS_PER_BATCH = 65_536


def open_work(work: Path, request: str) -> None:
    """Keep the parts of an interrupted run of the same request; drop those of another."""
    stamp = work / "request"
    if work.is_dir() and not (stamp.is_file() and stamp.read_text() == request):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    write_text(stamp, request)


def read_ids(work: Path, name: str, path: Path, resources: Resources) -> np.ndarray:
    """Return a domain's distinct item ids in file order, (N,) bytes; kept as a file for an interrupted run."""
    part = work / f"ids-{name}.npy"
    if part.is_file():
        with contextlib.suppress(InputError, OSError, ValueError, EOFError):  # damaged: it is made again
            check_recorded(part, "")
            return np.load(part, mmap_mode="r", allow_pickle=False)
    batches = [np.array(b["parent_asin"], dtype=bytes) for b in _read_meta(path, [], resources)]
    ids = np.concatenate(batches)
    ids = ids[np.sort(np.unique(ids, return_index=True)[1])]
    with recorded_file(part) as temporary, open(temporary, "wb") as file:
        np.save(file, ids, allow_pickle=False)
    return ids


def write_part(work: Path, name: str, path: Path, chosen: set[bytes], resources: Resources) -> int:
    """Write a domain's chosen items to its part; return how many. A whole part is left alone."""
    part, count = work / f"part-{name}.gz", work / f"part-{name}.count"
    if part.is_file() and count.is_file():
        return int(count.read_text())
    left = {raw.decode() for raw in chosen}
    n = len(left)
    with (
        whole_file(part) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file,
    ):
        for batch in _read_meta(path, ["title", "description"], resources):
            for item_id, title, description in zip(batch["parent_asin"], batch["title"], batch["description"]):
                if item_id not in left:
                    continue
                left.remove(item_id)
                meta = {"title": _parse(title), "description": _parse(description)}
                row = {ITEM_ID: item_id, "category": name, "metadata": item_text(meta, recipe="search")}
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    write_text(count, str(n))
    return n


def _parse(raw: str | None) -> Any:
    """Return a JSON column's value."""
    return None if raw is None else json.loads(raw)


def _read_meta(path: Path, fields: list[str], resources: Resources) -> Iterator[dict[str, list]]:
    """Yield columns (dict of lists) of a metadata file, one batch at a time; lines without an id are passed over.

    Raises:
        InputError: more than MAX_BROKEN_SHARE of the lines have no item id; a damaged gzip; no item.
    """
    columns = ", ".join(["parent_asin: 'VARCHAR'", *(f"{f}: 'JSON'" for f in fields)])
    sql = f"SELECT {', '.join(['parent_asin', *fields])} FROM {json_lines(path, f'{{{columns}}}')}"
    lines, broken, first = 0, 0, None
    label = f"{'texts' if fields else 'ids'} {path.name}"
    with (
        tempfile.TemporaryDirectory() as folder,
        resources.open_session(folder, progress=False) as duck,
        tqdm(desc=label, unit="item", disable=not resources.progress) as bar,
        reading(duck, path),
    ):
        for batch in duck.batches(sql, ROWS_PER_BATCH):
            rows = batch.to_pydict()
            good = [bool(i) for i in rows["parent_asin"]]
            if first is None and not all(good):
                first = lines + good.index(False)
            lines, broken = lines + len(good), broken + len(good) - sum(good)
            bar.update(len(good))
            yield {c: [v for v, ok in zip(values, good) if ok] for c, values in rows.items()}
    if broken > MAX_BROKEN_SHARE * lines or lines == broken:
        number = line_number_of(path, first) if first is not None else 1
        what = describe_line(path, number) if lines else "the file is empty"
        raise InputError(f"{path} line {number}: {what}; {broken:,} of {lines:,} lines hold no item")


def join_parts(work: Path, names: list[str], output: Path) -> None:
    """Join the parts (gzip members follow one another) into the pool."""
    with whole_file(output) as temporary, open(temporary, "wb") as target:
        for name in names:
            part = work / f"part-{name}.gz"
            with open(part, "rb") if output.suffix == ".gz" else gzip.open(part) as source:
                shutil.copyfileobj(source, target, 1 << 20)
