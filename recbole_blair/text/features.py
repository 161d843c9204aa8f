"""Feature files: where they are, whether they belong to this dataset, and their rows as an array.

`<build>.<encoder>.feature` is float32, row-major, one row per item in `.item` order; `.feature.json` beside
it says which encoder made it from which ids and texts. Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_blair.errors import InputError, nearest
from recbole_blair.files.build_files import check_build_file
from recbole_blair.files.checksum import CRC_BLOCK_BYTES, known_crc32
from recbole_blair.files.own_json import read_own_json
from recbole_blair.schema import FEATURE_HEADER_SUFFIX, FEATURE_SUFFIX, ITEM_ID, ITEM_SUFFIX, TFIDF_SVD
from recbole_blair.text.item_text import ids_hash, text_hash, text_of_columns

PROGRESS_SUFFIX = ".partial.json"  # beside a feature file while text/partial.py writes it
DATA_MAPS_SUFFIX = ".data_maps"
PADDING_TOKEN = "[PAD]"
CHECKSUM_KEY = "crc32_4MiB"  # of a header: the rows' own checksum
HEADER_KEYS = ("encoder", "width", "rows", "dtype", "pooling", "normalised", "ids_sha256", "text_sha256")


def build_path(build_dir: Path | str, suffix: str = "") -> Path:
    """Return `<build_dir>/<build><suffix>`; the folder's name is the file prefix."""
    folder = Path(os.path.abspath(build_dir))
    return folder / f"{folder.name}{suffix}"


def feature_path(build_dir: Path | str, encoder_name: str) -> Path:
    """Return the path of an encoder's feature file."""
    return build_path(build_dir, f".{encoder_name}{FEATURE_SUFFIX}")


def header_path(build_dir: Path | str, encoder_name: str) -> Path:
    """Return the path of a feature file's header."""
    return build_path(build_dir, f".{encoder_name}{FEATURE_HEADER_SUFFIX}")


def features_are_whole(build_dir: Path | str, encoder_name: str) -> bool:
    """Tell whether a feature file is there and no run is in the middle of making or replacing it.

    Says nothing about whose rows it holds: `load_features` does.
    """
    path = feature_path(build_dir, encoder_name)
    return path.is_file() and not Path(f"{path}{PROGRESS_SUFFIX}").exists()


def find_encoder_files(build_dir: Path | str) -> dict[str, Path]:
    """Return the encoders that have a feature file in a build folder.

    Returns:
        encoder name -> feature file, by name. Empty when the folder is missing.
    """
    folder = build_path(build_dir).parent
    prefix = f"{folder.name}."
    found = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.startswith(prefix) and path.name.endswith(FEATURE_SUFFIX):
                name = path.name[len(prefix) : -len(FEATURE_SUFFIX)]
                if name:
                    found[name] = path
    return found


def read_item_header(build_dir: Path | str, path: Path | None = None) -> list[str]:
    """Return the columns of `<build>.item`, or of the file at `path`, `name:type` each.

    Raises:
        InputError: the file is missing.
    """
    path = path or build_path(build_dir, ITEM_SUFFIX)
    if not path.is_file():
        raise InputError(f"{path} is missing; make the atomic files first: recbole-blair prepare")
    check_build_file(path)
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.readline().rstrip("\r\n").split("\t")


def read_items(
    build_dir: Path | str, columns: Sequence[str] = (ITEM_ID, "text"), path: Path | None = None
) -> list[list[str]]:
    """Read columns of `<build>.item`.

    Args:
        build_dir: folder of the build.
        columns: names without their type.
        path: another file than the build's.

    Returns:
        one list per column, rows in file order.

    Raises:
        InputError: the file or a column is missing, or the file is broken.
    """
    # heavy
    import pyarrow as pa
    from pyarrow import csv

    header = read_item_header(build_dir, path)
    path = path or build_path(build_dir, ITEM_SUFFIX)
    kinds = dict(column.partition(":")[::2] for column in header)
    wanted = [f"{name}:{kinds[name] if kinds.get(name) == 'token_seq' else 'token'}" for name in columns]
    absent = [name for name in wanted if name not in header]
    if absent:
        raise InputError(
            f"{path} has no column {', '.join(absent)} (it has {', '.join(header)}); make it again: "
            "recbole-blair prepare"
        )
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(block_size=16 << 20),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False, newlines_in_values=False),
            convert_options=csv.ConvertOptions(
                include_columns=wanted,
                column_types={name: pa.string() for name in wanted},
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is broken ({error}); make it again: recbole-blair prepare") from None
    return [table.column(name).to_pylist() for name in wanted]


def read_item_texts(
    build_dir: Path | str, fields: str | None = None, path: Path | None = None
) -> tuple[list[str], list[str]]:
    """Read ids and texts of a build's items.

    Args:
        build_dir: folder of the build.
        fields: columns of the `.item` file joined by commas, each closed as a sentence; None: `text`.
        path: another file than the build's.

    Returns:
        ids and texts, in file order.

    Raises:
        InputError: as `read_items`.
    """
    if fields is None:
        ids, texts = read_items(build_dir, path=path)
        return ids, texts
    names = list(dict.fromkeys(name.strip() for name in fields.split(",")))
    there = [column.split(":")[0] for column in read_item_header(build_dir, path) if ":token" in column]
    absent = next((name for name in names if name not in there), None)
    if absent is not None:
        raise InputError(
            f"text_fields={fields}: {build_path(build_dir, ITEM_SUFFIX)} has no text {absent!r}; it has "
            f"{', '.join(there)}.{nearest(absent, there)}"
        )
    ids, *columns = read_items(build_dir, [ITEM_ID, *names], path)
    return ids, text_of_columns([dict(zip(names, row)) for row in zip(*columns)], fields)


def load_features(
    build_dir: Path | str,
    encoder_name: str,
    *,
    ids: Sequence[str] | None = None,
    texts_hash: str | None = None,
    width: int | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Map the features of a build, after checking that they belong to it.

    Args:
        build_dir: folder of the build.
        encoder_name: from `encoders.encoder_name(plm)`.
        ids: item ids in the order the rows must have; None: those of the `.item`
            file.
        texts_hash: `item_text.text_hash` of the texts; None: of the `.item` file, if it is
            there.
        width: the width that is needed; None: any.

    Returns:
        features, header: (n_items, D) float32, read-only memory map (an array in memory where upstream's
        rows had to be put in order), and the header as dict.

    Raises:
        InputError: no such file, no header, or made for other ids, other texts, another width or size.
    """
    path = feature_path(build_dir, encoder_name)
    if Path(f"{path}{PROGRESS_SUFFIX}").exists():
        raise InputError(
            f"{path.name} is unfinished: encoding was interrupted, or goes on right now; finish it: "
            f"{_encode_hint(build_dir, encoder_name)}"
        )
    if not path.is_file():
        raise _missing(build_dir, encoder_name, path)
    item_file, header_file = build_path(build_dir, ITEM_SUFFIX), header_path(build_dir, encoder_name)
    fields = read_header(header_file).get("text_fields") if header_file.is_file() else None
    if ids is None or (texts_hash is None and item_file.is_file()):
        own_ids, own_texts = read_item_texts(build_dir, fields)
        ids = own_ids if ids is None else ids
        texts_hash = text_hash(own_texts) if texts_hash is None else texts_hash
    if not header_file.is_file():
        maps = data_maps_file(build_dir, encoder_name)
        if maps is not None:
            return _load_upstream(path, maps, ids, width, encoder_name)
        raise InputError(
            f"{path.name} has no header {header_file.name} beside it (nor upstream's {DATA_MAPS_SUFFIX}), so whose "
            f"rows it holds is unknown; move it away and encode again: {_encode_hint(build_dir, encoder_name)}"
        )
    header = read_header(header_file)
    check_header(path, header, encoder_name, ids, texts_hash, width)
    check_content(path, header)
    return _map_rows(path, header["rows"], header["width"]), header


def read_header(path: Path | str) -> dict[str, Any]:
    """Load a header and check that it has its keys."""
    return read_own_json(path, "a feature header", "delete it and encode again", HEADER_KEYS)


def check_header(
    path: Path,
    header: dict[str, Any],
    encoder_name: str,
    ids: Sequence[str],
    texts_hash: str | None,
    width: int | None,
) -> None:
    """Refuse a feature file that does not belong to these items and this encoder; see `load_features`."""
    again = f"encode again: {_encode_hint(path.parent, encoder_name)} --force"
    if header["encoder"] != encoder_name:
        raise InputError(f"{path.name} was made by {header['encoder']}, expected {encoder_name}; {again}")
    if header["dtype"] != "float32":
        raise InputError(f"{path.name} holds {header['dtype']}, expected float32; {again}")
    if header["rows"] != len(ids) or header["ids_sha256"] != ids_hash(ids):
        raise InputError(
            f"{path.name} was made for other items ({header['rows']} rows, the dataset has {len(ids)} items, or the "
            f"same number in another order); {again}"
        )
    if texts_hash is not None and header["text_sha256"] != texts_hash:
        raise InputError(
            f"{path.name} was made from other item texts than {path.parent.name}{ITEM_SUFFIX} holds; {again}"
        )
    size, expected = path.stat().st_size, 4 * header["rows"] * header["width"]
    if size != expected:
        raise InputError(
            f"{path.name} has {size} bytes, expected {expected} = 4 x {header['rows']} rows x width "
            f"{header['width']}; {again}"
        )
    _check_width(path, header["width"], width)


def check_content(path: Path, header: dict[str, Any]) -> None:
    """Refuse rows that are not those that were written; a header of an earlier version records nothing of them.

    A file is read for it once per process, as long as it stays the same: .35 s of a core per GiB.

    Raises:
        InputError: names the first rows that differ.
    """
    recorded = header.get(CHECKSUM_KEY)
    if recorded is None:
        return
    found = known_crc32(path)
    if found != recorded:
        blocks = range(0, len(found), 8)
        block = next((i // 8 for i in blocks if found[i : i + 8] != str(recorded)[i : i + 8]), 0)
        row = block * CRC_BLOCK_BYTES // (4 * header["width"])
        raise InputError(
            f"{path.name} is damaged: from row {row} on its checksum is not the one that {path.name}.json records; "
            f"encode again: {_encode_hint(path.parent, header['encoder'])} --force"
        )


def _check_width(path: Path, found: int, wanted: int | None) -> None:
    """Refuse another width than the model was set to."""
    if wanted is not None and found != wanted:
        raise InputError(
            f"{path.name} has width {found} but plm_size is {wanted}; set plm_size: {found}, or encode again with an "
            "encoder of that width"
        )


def _map_rows(path: Path, rows: int, width: int) -> np.ndarray:
    """Map a feature file read-only."""
    return np.memmap(path, dtype=np.float32, mode="r", shape=(rows, width))


def _missing(build_dir: Path | str, encoder_name: str, path: Path) -> InputError:
    """Return the error for a feature file that is not there, naming those that are."""
    here = ", ".join(find_encoder_files(build_dir)) or "none"
    return InputError(
        f"{path} is missing (encoders with features there: {here}, wanted {encoder_name}); make it: "
        f"{_encode_hint(build_dir, encoder_name)}"
    )


def _encode_hint(build_dir: Path | str, encoder_name: str) -> str:
    """Return the command that makes an encoder's features for a build."""
    plm = TFIDF_SVD if encoder_name == TFIDF_SVD else f"<hub id or folder of {encoder_name}>"
    return f"recbole-blair encode --build={build_path(build_dir).parent} --plm={plm}"


def data_maps_file(build_dir: Path | str, encoder_name: str) -> Path | None:
    """Return upstream's id maps beside a feature file, if there."""
    for suffix in (f".{encoder_name}{DATA_MAPS_SUFFIX}", DATA_MAPS_SUFFIX):
        path = build_path(build_dir, suffix)
        if path.is_file():
            return path
    return None


def _load_upstream(
    path: Path, maps_path: Path, ids: Sequence[str], width: int | None, encoder_name: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read upstream's pair: row i - 1 of the features belongs to id i of the maps, 0 is padding."""
    rows_of, n_rows = upstream_rows(maps_path, encoder_name)
    missing = [item for item in ids if item not in rows_of]
    if missing:
        raise InputError(
            f"{maps_path.name} lacks {len(missing)} of the dataset's {len(ids)} items (first: "
            f"{', '.join(map(str, missing[:3]))}); it belongs to another build: encode again: "
            f"{_encode_hint(path.parent, encoder_name)}"
        )
    size = path.stat().st_size
    if n_rows == 0 or size == 0 or size % (4 * n_rows):
        raise InputError(
            f"{path.name} has {size} bytes, which is no whole number of float32 rows for the {n_rows} items of "
            f"{maps_path.name}; the two do not belong together: encode again: {_encode_hint(path.parent, encoder_name)}"
        )
    found = size // (4 * n_rows)
    _check_width(path, found, width)
    features = _map_rows(path, n_rows, found)
    order = np.fromiter((rows_of[item] for item in ids), np.int64, len(ids))
    if not np.array_equal(order, np.arange(n_rows)):
        features = np.asarray(features)[order]
        features.flags.writeable = False
    header = {
        "encoder": encoder_name,
        "kind": "upstream",
        "width": found,
        "rows": len(ids),
        "dtype": "float32",
        "pooling": None,
        "normalised": None,
        "max_length": None,
        "ids_sha256": ids_hash(ids),
        "text_sha256": None,  # upstream does not say from which texts
    }
    return features, header


def upstream_rows(maps_path: Path, encoder_name: str) -> tuple[dict[str, int], int]:
    """Return {item: row} and the number of rows of a `.data_maps` file."""
    try:
        item2id = json.loads(maps_path.read_text(encoding="utf-8"))["item2id"]
        rows_of = {item: int(number) - 1 for item, number in item2id.items() if item != PADDING_TOKEN}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{maps_path} is not upstream's JSON with an item2id map ({type(error).__name__}: {error}); encode again: "
            f"{_encode_hint(maps_path.parent, encoder_name)}"
        ) from None
    if sorted(rows_of.values()) != list(range(len(rows_of))):
        raise InputError(
            f"{maps_path}: item2id should number {len(rows_of)} items 1 to {len(rows_of)}, each once, with "
            f"{PADDING_TOKEN} = 0; encode again: {_encode_hint(maps_path.parent, encoder_name)}"
        )
    return rows_of, len(rows_of)
