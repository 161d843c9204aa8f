"""Item and user vectors as files other systems read: Parquet, float32 .npy, and on request a faiss index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_blair.errors import InputError, require
from recbole_blair.files.write import whole_file, write_json
from recbole_blair.recommend.recommender import Recommender
from recbole_blair.recommend.users import Users
from recbole_blair.schema import ITEM_ID, USER_ID, VERSION

if TYPE_CHECKING:
    import faiss

CHUNK_ROWS = 65536  # item vectors written at a time
MANIFEST = "vectors.json"


def export_vectors(
    recommender: Recommender,
    output_dir: Path | str,
    users: Users | None = None,
    with_faiss: bool = False,
    request_time: str | int | None = None,
) -> dict[str, Any]:
    """Write vectors whose inner products are the model's scores.

    `items.parquet` (item_id, title, vector) and `items.npy` (M, H) float32 hold the same rows in the same order, as do
    `users.parquet` (user_id, vector) and `users.npy` (U, H); row i of `items.faiss` is row i of `items.npy`. A file is
    renamed when whole, `vectors.json`, which says what they are, is written last.

    Args:
        recommender: new items that were added are among the items.
        users: see Recommender; None: every user of the build; `none`: no user files.
        with_faiss: write `items.faiss` too, an exact inner-product index (IndexFlatIP).
        request_time: see `Recommender.recommend`.

    Returns:
        `vectors.json`'s content.

    Raises:
        InputError: a model whose score is no inner product; faiss asked for and not installed.
    """
    recommender.scorer.check_has_vectors()
    run = recommender.scorer.run
    index = new_index(recommender) if with_faiss else None
    folder = Path(output_dir)
    histories = None
    if users != "none":  # before anything is written: they may be refused
        users = run.dataset.user_tokens.to_pylist() if users is None else users
        if users == []:
            raise InputError(f"{run.folder} came from the hub, which holds no users; give histories, or --users=none")
        histories = recommender.scorer.load_users(users, request_time)
    (folder / MANIFEST).unlink(missing_ok=True)  # until it is there again the files are not of one export
    columns = {ITEM_ID: recommender.item_ids, "title": recommender.titles}
    n_items, width = write_vectors(folder / "items", columns, item_chunks(recommender, index))
    about = {"items": n_items, "width": width, "metric": "inner product", "users": 0}
    if index is not None:
        write_index(index, folder / "items.faiss")
    if histories is not None:
        chunks = (vectors for _, vectors in recommender.scorer.vector_chunks(histories))
        about["users"], _ = write_vectors(folder / "users", {USER_ID: histories.user_ids}, chunks)
    about.update(
        model=run.info.name, dataset=run.dataset.name, run=run.folder.name, encoder=run.encoder,
        recbole_blair=VERSION, request_time=request_time,
    )  # fmt: skip
    write_json(folder / MANIFEST, about, ensure_ascii=True)
    return about


def item_chunks(recommender: Recommender, index: faiss.Index | None = None) -> Iterator[np.ndarray]:
    """Yield item vectors (m, H) float32, padding left out; added to a faiss index on the way."""
    table = recommender.scorer.tables()[1][1:]
    for start in range(0, len(table), CHUNK_ROWS):
        vectors = table[start : start + CHUNK_ROWS].cpu().numpy()
        if index is not None:
            index.add(vectors)
        yield vectors


def write_vectors(stem: Path, columns: dict[str, list[str]], chunks: Iterable[np.ndarray]) -> tuple[int, int]:
    """Write `<stem>.parquet` and `<stem>.npy` from chunks of vectors.

    Args:
        stem: without ending.
        columns: by name, n values each.
        chunks: float32 arrays (m, H), n rows together.

    Returns:
        n, H.
    """
    total = len(next(iter(columns.values())))
    fields = [(name, pa.string()) for name in columns]
    schema = pa.schema([*fields, ("vector", pa.list_(pa.float32()))])
    done, width = 0, 0
    with contextlib.ExitStack() as stack:
        parquet, npy = (stack.enter_context(whole_file(f"{stem}{ending}")) for ending in (".parquet", ".npy"))
        writer = stack.enter_context(pq.ParquetWriter(parquet, schema))
        array = stack.enter_context(open(npy, "wb"))
        for vectors in chunks:
            if not width:
                width = vectors.shape[1]
                header = {"descr": "<f4", "fortran_order": False, "shape": (total, width)}
                np.lib.format.write_array_header_1_0(array, header)
            rows = slice(done, done + len(vectors))
            offsets = pa.array(np.arange(0, vectors.size + 1, width), pa.int32())
            lists = pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel()))
            strings = [pa.array(values[rows], pa.string()) for values in columns.values()]
            writer.write_table(pa.Table.from_arrays([*strings, lists], schema=schema))
            array.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            done = rows.stop
    return done, width


def new_index(recommender: Recommender) -> faiss.Index:
    """Return an empty faiss index for the item vectors.

    Raises:
        InputError: faiss is not installed.
    """
    require("--faiss", "faiss", instead=", or leave it out: items.npy is what faiss.IndexFlatIP(width).add() takes")
    import faiss  # heavy, and an extra

    return faiss.IndexFlatIP(recommender.scorer.tables()[1].shape[1])


def write_index(index: faiss.Index, path: Path) -> None:
    """Write a faiss index."""
    import faiss  # heavy

    with whole_file(path) as temporary:
        faiss.write_index(index, str(temporary))
