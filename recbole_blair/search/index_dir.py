"""What is made once for a pool and kept: its vectors, its BM25 index, its faiss index; tied to the pool by a hash.

The folder is a build in the sense of the feature files: `<folder>/<folder>.item` holds the pool's ids and texts, and
`<folder>.<encoder>.feature` its vectors, so `recbole-blair encode` can make them too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_crc32
from recbole_blair.files.output import check_output_folder
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.read import why_no_folder
from recbole_blair.files.write import whole_folder, write_text
from recbole_blair.schema import ITEM_ID, TFIDF_SVD
from recbole_blair.search import approx
from recbole_blair.search.bm25 import BM25Index
from recbole_blair.search.readers import hash_strings
from recbole_blair.text.item_text import atomic_text

if TYPE_CHECKING:
    from faiss import Index as FaissIndex

    from recbole_blair.search.readers import Pool

POOL_FILE = "pool.json"
ARRAYS, VOCABULARY = ("data", "indices", "indptr"), "vocab.json"  # of a BM25 index


class IndexDir:
    """The folder of a pool's indexes.

    Args:
        pool: candidates.
        data_path: parent of the default folder `search-<hash of the pool>`, shared by all query sets.
        index_dir: another folder.

    Raises:
        InputError: the folder was made for another pool.
    """

    def __init__(self, pool: Pool, data_path: Path | str = "dataset", index_dir: Path | str | None = None) -> None:
        self.pool = pool
        self.hash = hash_strings(pool.item_ids, pool.texts)
        self.path = Path(os.path.abspath(index_dir or Path(data_path) / f"search-{self.hash[:8]}"))
        if why_no_folder(self.path):
            check_output_folder(self.path)
        known = self.path / POOL_FILE
        if known.is_file():
            self._check(known)

    def _check(self, known: Path) -> None:
        """Refuse the index of another pool."""
        before = read_own_json(known, "a pool description", "choose another --index_dir", ("pool_hash", "items"))
        other = before["pool_hash"], before["items"]
        if other[0] != self.hash:
            raise InputError(
                f"{self.path} holds the index of another pool ({other[1]} items, hash {other[0]}), but "
                f"{self.pool.path} has {len(self.pool)} items, hash {self.hash}; choose another --index_dir or "
                "delete that folder"
            )

    def open(self) -> Path:
        """Make the folder and write what pool it belongs to; returns its path."""
        if not (self.path / POOL_FILE).is_file():
            self.path.mkdir(parents=True, exist_ok=True)
            about = {"pool_hash": self.hash, "items": len(self.pool), "pool": Path(self.pool.path).name}
            write_own_json(self.path / POOL_FILE, about, ensure_ascii=True)
        return self.path

    def item_vectors(self, encoder: Any, plm: str, options: dict[str, Any], progress: bool = True) -> np.ndarray:
        """Return the pool's vectors (N, D) float32, encoded when they are not there yet.

        `tfidf-svd` is fitted on the pool and stays in memory, since its queries need the same fit.
        """
        if plm == TFIDF_SVD:
            return encoder.fit(self.pool.texts).transform(self.pool.texts)
        from recbole_blair.text.encode import encode_build  # heavy: the encoder's libraries
        from recbole_blair.text.features import load_features  # heavy: loads pyarrow

        folder = self.open()
        item_file = folder / f"{folder.name}.item"
        lines = self._item_lines()
        if not item_file.is_file() or item_file.read_bytes() != lines.encode("utf-8", "surrogatepass"):  # or damaged
            write_text(item_file, lines, errors="surrogatepass")
        encode_build(folder, plm, progress=progress, **options)
        return load_features(folder, encoder.name)[0]

    def _item_lines(self) -> str:
        """Return the `.item` file: one line a pool item; texts on one line, quotes as atomic files write them."""
        lines = [f"{ITEM_ID}:token\ttext:token\n"]
        for item_id, text in zip(self.pool.item_ids, self.pool.texts):
            lines.append(f"{item_id}\t{atomic_text(' '.join(text.split()))}\n")
        return "".join(lines)

    def bm25(self, progress: bool = True, **settings: Any) -> BM25Index:
        """Return the pool's BM25 index with these settings, built and saved when it is not there yet."""
        index = BM25Index(**settings)
        folder = self.path / f"bm25-{hash_strings([json.dumps(index.settings, sort_keys=True)])[:8]}"
        if not folder.is_dir():
            self.open()
            index.build(self.pool.texts, progress)
            save_bm25(index, folder)
            return index
        return load_bm25(index, folder, len(self.pool))

    def faiss(
        self, items: np.ndarray, kind: str, encoder_name: str, seed: int = 0, progress: bool = True
    ) -> FaissIndex:
        """Return the pool's faiss index over `items` (N, D), built and saved when it is not there yet."""
        if encoder_name == TFIDF_SVD:
            return approx.build_index(items, kind, seed, progress)
        path = self.path / f"{self.path.name}.{encoder_name}.{kind}.faiss"
        vectors = self.path / f"{self.path.name}.{encoder_name}.feature"
        if path.is_file() and path.stat().st_mtime >= vectors.stat().st_mtime:
            return approx.read_index(path, *items.shape)
        index = approx.build_index(items, kind, seed, progress)
        approx.write_index(index, path)
        return index


def save_bm25(index: BM25Index, folder: Path) -> None:
    """Write a BM25 index as plain arrays and JSON."""
    with whole_folder(folder) as temporary:
        for name in ARRAYS:
            np.save(temporary / f"{name}.npy", getattr(index, name), allow_pickle=False)
        (temporary / VOCABULARY).write_text(json.dumps(list(index.vocab), ensure_ascii=False), encoding="utf-8")
        checksums = {name: file_crc32(temporary / name) for name in (VOCABULARY, *(f"{name}.npy" for name in ARRAYS))}
        about = {"settings": index.settings, "items": index.n_items, "crc32": checksums}
        write_own_json(temporary / "index.json", about, ensure_ascii=True)


def load_bm25(index: BM25Index, folder: Path | str, n_items: int) -> BM25Index:
    """Fill a BM25 index from its folder.

    Raises:
        InputError: not readable, damaged, or made for another pool or with other settings.
    """
    folder = Path(folder)
    try:
        about = read_own_json(folder / "index.json", "the settings of a BM25 index", "delete its folder")
        for name, checksum in about.get("crc32", {}).items():  # an earlier version recorded none
            if file_crc32(folder / name) != checksum:
                raise ValueError(f"{name} has another checksum than when it was written")
        index.vocab = {t: i for i, t in enumerate(json.loads((folder / VOCABULARY).read_text(encoding="utf-8")))}
        for name in ARRAYS:
            setattr(index, name, np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
    except (InputError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{folder} is not a whole BM25 index ({error}); delete it, it is built again") from None
    if about.get("items") != n_items or about.get("settings") != index.settings:
        raise InputError(f"{folder} is the BM25 index of another pool or other settings; delete it")
    index.n_items = n_items
    return index
