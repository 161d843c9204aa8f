"""Ready-made vectors: a file of vectors, checked against a build's items and taken as their features."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.files.read import check_file, iter_lines, read_parquet, reading
from recbole_blair.schema import FEATURE_SUFFIX
from recbole_blair.text.api_client import RowError
from recbole_blair.text.features import DATA_MAPS_SUFFIX, upstream_rows
from recbole_blair.text.hub import fetch_dataset_file, first_line
from recbole_blair.text.row_order import check_row_order
from recbole_blair.text.weights import hash_files

if TYPE_CHECKING:
    import pyarrow as pa

    from recbole_blair.text.options import EncoderOptions

PREFIX, HUB, SORTED = "vectors:", "hf://", "#sorted"
SUFFIXES = (".npy", ".npz", ".parquet", ".safetensors", FEATURE_SUFFIX)
IDS_FILE = "item_ids.txt"  # beside a .safetensors file: its rows' ids, one per line
EXPECTED = f"vectors of the items: {', '.join(SUFFIXES)}"
ID_NAMES = ("item_id", "item_ids", "parent_asin", "asin", "id", "ids")
CHUNK = 1 << 16  # rows at a time


@dataclass(frozen=True)
class VectorsFile:
    """A file that `--plm=vectors:…` names.

    Args:
        path: of the file on this machine.
        address: `hf://datasets/…` of a file of the hub; "" otherwise.
        sorted_ids: whether the rows of a file without ids are in the order of the sorted ids, not of the `.item` file.
    """

    path: Path
    address: str = ""
    sorted_ids: bool = False

    @property
    def source(self) -> str:
        """Return how others may name the file."""
        return self.address or self.path.name

    @property
    def name(self) -> str:
        """Return its part in file names: `vectors-<file name>[-sorted]-<8 hex of the file's SHA-256>`."""
        return f"vectors-{self.path.stem}{'-sorted' if self.sorted_ids else ''}-{hash_files([self.path])[:8]}"


class VectorsEncoder:
    """Stands where an encoder stands, for a build whose vectors are made elsewhere: it takes no other text.

    Args:
        file: `.npy`: (n, D), a row per item of the `.item` file, in its order; `.npz`: an array of vectors and one of
            ids; `.parquet`: a column of ids, and one of lists or one per number; `.safetensors`: one tensor, with
            `item_ids.txt` beside it, or in the order of the `.item` file; `.feature` with upstream's `.data_maps`.
        options: `dimensions` keeps the first numbers of each vector.
        name: its part in file names.

    Raises:
        InputError: no such file, or one of another kind.
    """

    pooling = "none"
    precision = "fp32"
    device_type = "file"
    batch_tokens = CHUNK
    libraries: Sequence[str] = ("numpy",)

    def __init__(self, file: VectorsFile, options: EncoderOptions, name: str) -> None:
        path = file.path
        self.file, self.path, self.name, self.dimensions = file, path, name, options.dimensions
        self.vectors, self.row_of = read_vectors(path, name)
        if self.row_of is None and file.address and not file.sorted_ids:
            raise InputError(
                f"{file.address} names no items; add {SORTED} if its rows are in the order of the sorted item ids, "
                "as in BLaIR-Bench's data set"
            )
        if self.row_of is not None and file.sorted_ids:
            raise InputError(f"{file.source} names its items, so {SORTED} means nothing; leave it out")
        wide = int(self.vectors.shape[1])
        if self.dimensions and self.dimensions > wide:
            raise InputError(f"--plm_dimensions={self.dimensions} is not a width of {path}; it has 1 to {wide}")
        self.width = self.dimensions or wide
        self.rows: np.ndarray | None = None

    def take_items(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Find the rows of a build's items.

        Args:
            ids: of the `.item` file, in its order.
            texts: theirs: what `#sorted` claims is compared with them.

        Raises:
            InputError: items without a vector, or, where the file names no ids, another number or order of rows.
        """
        if self.row_of is None:
            if len(self.vectors) != len(ids):
                raise InputError(
                    f"{self.path} has {len(self.vectors)} rows and no ids, the build has {len(ids)} items; give the "
                    f"vectors with their ids (.npz, .parquet), or those of this build"
                )
            self.rows = np.arange(len(ids))
            if self.file.sorted_ids:
                order = np.array(sorted(range(len(ids)), key=ids.__getitem__))  # row of the file -> row of `.item`
                check_row_order([texts[row] for row in order], self.vectors, self.file.source)
                self.rows[order] = np.arange(len(ids))
            return
        missing = [item for item in ids if item not in self.row_of]
        if missing:
            raise InputError(
                f"{self.path} lacks {len(missing)} of the build's {len(ids)} items (first: {', '.join(missing[:3])}); "
                "give the vectors of this build"
            )
        self.rows = np.fromiter((self.row_of[item] for item in ids), np.int64, len(ids))

    def description(self) -> dict[str, Any]:
        """Header fields."""
        return {
            "encoder": self.name,
            "kind": "vectors",
            "source": self.file.source,
            "row_order": "sorted ids" if self.file.sorted_ids else None,
            "file_sha256": hash_files([self.path]),
            "width": self.width,
            "pooling": self.pooling,
            "max_length": None,
            "precision": self.precision,
        }

    def plan(self, texts: Sequence[str], batch_tokens: int | None = None) -> list[np.ndarray]:
        """Return the rows, some at a time."""
        starts = range(0, len(texts), CHUNK)
        return [np.arange(start, min(start + CHUNK, len(texts))) for start in starts]

    def encode_chunks(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, done: Container[int] = ()
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (chunk number, its rows, their vectors).

        Raises:
            InputError: a vector that is not finite.
        """
        if self.rows is None:
            raise self._no_encoder()
        for number, rows in enumerate(self.plan(texts)):
            if number in done:
                continue
            vectors = np.asarray(self.vectors[self.rows[rows], : self.width], np.float32)
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                row = int(rows[~finite][0])
                raise RowError(row, f"{self.path} has a number in its vector that is not finite; give other vectors")
            yield number, rows, vectors

    def encode(self, texts: Sequence[str], **options: object) -> np.ndarray:
        """Refuse: there is no encoder for other texts."""
        raise self._no_encoder()

    def encode_queries(self, texts: Sequence[str], progress: bool = True) -> np.ndarray:
        """Refuse: there is no encoder for queries."""
        raise self._no_encoder()

    def _no_encoder(self) -> InputError:
        return InputError(
            f"--plm={PREFIX}{self.file.address or self.path} holds vectors of a build's items, no encoder for other "
            "texts; new items and queries need an encoder"
        )


def find_vectors(text: str) -> VectorsFile:
    """Return the file that `--plm=vectors:FILE` names; one of the hub is downloaded.

    Raises:
        InputError: no such file, or one of another kind.
    """
    if not text.strip():
        raise InputError(f"--plm={PREFIX} names no file; expected --plm={PREFIX}FILE, {EXPECTED}")
    name = text.removesuffix(SORTED)
    suffix = Path(name).suffix
    if name.startswith(HUB):
        if suffix not in SUFFIXES:
            raise InputError(f"--plm={PREFIX}{text}: {suffix or 'no ending'}, expected {EXPECTED}")
        beside = (IDS_FILE, Path(name).with_suffix(DATA_MAPS_SUFFIX).name)
        return VectorsFile(fetch_dataset_file(name, beside), name, name != text)
    path = check_file(Path(name).expanduser().absolute(), EXPECTED)
    if path.suffix not in SUFFIXES:
        raise InputError(f"--plm={PREFIX}{text}: {path.suffix or 'no ending'}, expected {EXPECTED}")
    return VectorsFile(path, sorted_ids=name != text)


def read_vectors(path: Path, name: str) -> tuple[np.ndarray, dict[str, int] | None]:
    """Read a file of vectors.

    Returns:
        (n, D) floating, and id -> row, or None where the file names no ids.

    Raises:
        InputError: damaged, no vectors in it, or an id twice.
    """
    ids: Sequence[str] | None
    if path.suffix == FEATURE_SUFFIX:
        return _read_upstream(path, name)
    with reading(path, EXPECTED):
        if path.suffix == ".parquet":
            vectors, ids = _from_table(read_parquet(path, expected=EXPECTED), path)
        elif path.suffix == ".safetensors":
            vectors, ids = _from_safetensors(path)
        else:
            vectors, ids = _from_numpy(path)
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.size:
        raise InputError(f"{path} holds {vectors.dtype} of shape {vectors.shape}, expected numbers (items, width)")
    if ids is None:
        return vectors, None
    row_of = {item: row for row, item in enumerate(ids)}
    if len(row_of) != len(ids) or len(ids) != len(vectors):
        raise InputError(f"{path} has {len(vectors)} vectors, {len(ids)} ids, {len(row_of)} of them different")
    return vectors, row_of


def _read_upstream(path: Path, name: str) -> tuple[np.ndarray, dict[str, int]]:
    """Read upstream's pair."""
    maps = [path.with_suffix(DATA_MAPS_SUFFIX), *sorted(path.parent.glob(f"*{DATA_MAPS_SUFFIX}"))]
    found = next((file for file in maps if file.is_file()), None)
    if found is None:
        raise InputError(f"{path} has no {DATA_MAPS_SUFFIX} file beside it, which names its rows")
    row_of, n = upstream_rows(found, name)
    size = path.stat().st_size
    if not n or not size or size % (4 * n):
        raise InputError(f"{path} has {size} bytes, no whole number of float32 rows for the {n} items of {found.name}")
    return np.memmap(path, np.float32, "r", shape=(n, size // (4 * n))), row_of


def _from_numpy(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Return vectors and ids of a .npy or .npz file; nothing is unpickled."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False, mmap_mode="r"), None
        arrays = dict(np.load(path, allow_pickle=False))
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} is no {path.suffix} file of numbers ({first_line(error)}); give another one"
        ) from None
    vectors = [array for array in arrays.values() if array.ndim == 2]
    ids = [array for array in arrays.values() if array.ndim == 1]
    if len(vectors) != 1 or len(ids) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(
            f"{path} holds {shapes or 'nothing'}; expected one array of vectors (n, width) and one of ids (n,)"
        )
    return vectors[0], [str(item) for item in ids[0].tolist()]


def _from_safetensors(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Return the vectors of a safetensors file, and the ids in the file beside it, if there."""
    # heavy
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, KeyError, TypeError) as error:  # the latter: a type that NumPy does not have
        raise InputError(f"{path} is damaged ({first_line(error)}); fetch it again") from error
    if len(arrays) != 1:
        raise InputError(
            f"{path} holds {len(arrays)} tensors ({', '.join(sorted(arrays)[:5])}); expected one of vectors"
        )
    names = path.with_name(IDS_FILE)
    ids = [line for _, line in iter_lines(names, "item ids, one per line")] if names.is_file() else None
    return next(iter(arrays.values())), ids


def _from_table(table: pa.Table, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return vectors and ids of a Parquet file."""
    import pyarrow as pa  # heavy

    names = [name for name in ID_NAMES if name in table.column_names]
    if not names:
        raise InputError(f"{path} has no column of ids ({', '.join(ID_NAMES)}); it has {', '.join(table.column_names)}")
    kinds = {field.name: field.type for field in table.schema}
    lists = [
        n
        for n, k in kinds.items()
        if pa.types.is_list(k) or pa.types.is_fixed_size_list(k) or pa.types.is_large_list(k)
    ]
    ids = [str(item) for item in table.column(names[0]).to_pylist()]
    if lists:
        rows = table.column(lists[0]).to_pylist()
        widths = {0 if row is None else len(row) for row in rows}
        if len(widths) != 1:
            raise InputError(
                f"{path}: the vectors in {lists[0]} have different widths ({', '.join(map(str, sorted(widths)))})"
            )
        return np.asarray(rows, np.float32), ids
    numbers = [name for name, kind in kinds.items() if pa.types.is_floating(kind)]
    if not numbers:
        raise InputError(f"{path} has no column of lists or of numbers besides {names[0]}")
    return np.stack([table.column(name).to_numpy() for name in numbers], axis=1).astype(np.float32), ids
