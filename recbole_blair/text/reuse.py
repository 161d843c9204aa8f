"""Rows of a feature file that stay when its build is made again, or that another build of the data offers.

A text that is there already is not encoded twice.

`dataset_tools.builds.folder.keep_items` keeps the `.item` file that the feature file was made from. Rows are carried
over by their text, and only between equal encoders: same weights, modules, prompt, precision, columns of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.schema import CACHE_DIR, ITEM_SUFFIX, KEPT_ITEMS
from recbole_blair.text import features
from recbole_blair.text.item_text import ids_hash, text_hash
from recbole_blair.text.partial import SAME_ROWS

if TYPE_CHECKING:
    from recbole_blair.text.encoders import Encoder

OF_THE_DATA = ("ids_sha256", "text_sha256", "rows")  # header keys that a build made again changes
ROW_BY_ROW = ("huggingface", "api")  # kinds whose vector of a text depends on no other text
ROWS_PER_CHUNK = 65_536  # carried over at a time


@dataclass
class FormerRows:
    """What a feature file of the former build holds.

    Attributes:
        path: the feature file.
        header: what its header says.
        row_of: text -> row.
    """

    path: Path
    header: dict[str, Any]
    row_of: dict[str, int]


class Reusing:
    """Gives the vectors of texts, those of a former feature file without the encoder; has an Encoder's two methods.

    Args:
        encoder: encodes what is new.
        former: of `find_former_rows`.
        texts: of the build, in `.item` order.
    """

    def __init__(self, encoder: Encoder, former: FormerRows, texts: Sequence[str]) -> None:
        self.encoder, self.former, self.name = encoder, former, encoder.name
        source = np.fromiter((former.row_of.get(text, -1) for text in texts), np.int64, len(texts))
        self.source, self.old, self.new = source, np.flatnonzero(source >= 0), np.flatnonzero(source < 0)
        self.new_texts = [texts[row] for row in self.new.tolist()]
        self.chunks = [self.old[i : i + ROWS_PER_CHUNK] for i in range(0, len(self.old), ROWS_PER_CHUNK)]

    def plan(self, batch_tokens: int | None = None) -> list[np.ndarray]:
        """Return the chunks, rows (m,) each: those that are carried over, then those that are encoded."""
        return self.chunks + [self.new[rows] for rows in self.encoder.plan(self.new_texts, batch_tokens)]

    def encode_chunks(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, done: set[int]
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (chunk number, rows (m,), vectors (m, D)) of the chunks that are not done."""
        width = self.former.header["width"]
        vectors = np.memmap(self.former.path, np.float32, "r", shape=(self.former.header["rows"], width))
        for number, rows in enumerate(self.chunks):
            if number not in done:
                yield number, rows, vectors[self.source[rows]]
        first = len(self.chunks)
        left = {number - first for number in done if number >= first}
        for number, rows, fresh in self.encoder.encode_chunks(self.new_texts, batch_tokens=batch_tokens, done=left):
            yield first + number, self.new[rows], fresh


def kept_items(build_dir: Path | str) -> list[Path]:
    """Return the `.item` files of builds that were made again, newest first."""
    folder = features.build_path(build_dir).parent / CACHE_DIR
    return sorted(folder.glob(f"{KEPT_ITEMS}*{ITEM_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def find_former_rows(path: Path, fields: str | None) -> FormerRows | None:
    """Return what a feature file holds of a former build of its folder, or None where it is of no former build.

    Args:
        path: the feature file.
        fields: columns that the texts are made of.

    Raises:
        InputError: the rows are damaged.
    """
    header_file = Path(f"{path}.json")
    kept = kept_items(path.parent)
    if not kept or not path.is_file() or not header_file.is_file():
        return None
    header = features.read_header(header_file)
    if path.stat().st_size != 4 * header["rows"] * header["width"]:
        return None
    for items in kept:
        try:
            ids, texts = features.read_item_texts(path.parent, fields, items)
        except InputError:  # without the columns of the texts: another build
            continue
        if (header["ids_sha256"], header["text_sha256"]) == (ids_hash(ids), text_hash(texts)):
            features.check_content(path, header)
            return FormerRows(path, header, {text: row for row, text in enumerate(texts)})
    return None


def rows_of_build(build_dir: Path, encoder: str, fields: str | None) -> FormerRows | None:
    """Return what a build's feature file holds for another build, or None where it is not there or not of its texts.

    Args:
        build_dir: folder of the build whose rows are offered.
        encoder: its name in file names.
        fields: columns that the texts are made of.

    Raises:
        InputError: the rows are damaged.
    """
    path = features.feature_path(build_dir, encoder)
    if not features.features_are_whole(build_dir, encoder) or not Path(f"{path}.json").is_file():
        return None
    header = features.read_header(Path(f"{path}.json"))
    ids, texts = features.read_item_texts(build_dir, fields)
    if (header["ids_sha256"], header["text_sha256"]) != (ids_hash(ids), text_hash(texts)):
        return None
    features.check_content(path, header)
    return FormerRows(path, header, {text: row for row, text in enumerate(texts)})


def is_same_encoder(header: dict[str, Any], about: dict[str, Any]) -> bool:
    """Tell whether rows of a header's file and rows of what `about` describes are of one encoder, text by text."""
    keys = [key for key in SAME_ROWS if key not in OF_THE_DATA]
    return about.get("kind") in ROW_BY_ROW and all(header.get(key) == about.get(key) for key in keys)


def drop_kept_items(build_dir: Path | str) -> None:
    """Delete kept `.item` files once every feature file of the build is newer than its `.item` file."""
    items = features.build_path(build_dir, ITEM_SUFFIX).stat().st_mtime_ns
    headers = [Path(f"{path}.json") for path in features.find_encoder_files(build_dir).values()]
    if all(not header.is_file() or header.stat().st_mtime_ns >= items for header in headers):
        for path in kept_items(build_dir):
            path.unlink(missing_ok=True)
