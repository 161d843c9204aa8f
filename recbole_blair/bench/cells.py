"""A cell: one encoder, one task, one data set. Its folder holds its runs, then its values and its result.

cells/<task>/<data set>/<encoder>/   runs/           of train, or search/ of search
                                     values.parquet  one row per user event or query and seed
                                     cell.json       the result; written last, so a cell that has it is finished
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.bench.suite import Part
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_recorded, recorded_file
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.read import read_parquet
from recbole_blair.text.encoders import encoder_name, require_client, resolve_plm

if TYPE_CHECKING:
    import pyarrow as pa

CELLS, CELL, VALUES = "cells", "cell.json", "values.parquet"
FORMAT = 1
NAME = re.compile(r"[\w.+=-]{1,200}")  # of encoders, tasks and data sets, which are folders
GIVEN_NAME = re.compile(r"(?P<name>[\w.+-]+)=(?P<plm>.+)")
FIELDS = {
    "format": int, "suite": str, "part_sha256": str, "encoder": dict, "task": str, "dataset": str, "metric": str,
    "data": dict, "seeds": list, "setting": dict, "grid": list, "metrics": dict, "value": float, "seconds": float,
    "versions": dict, "command": str, "time": str,
}  # fmt: skip
ENCODER_FIELDS = {"id": str, "label": str, "plm": str}
SAME = 1e-9  # by which a mean over values may differ from the recorded one: another order of summing
FIX = "delete that folder, and the same command makes the cell again"


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder of a bench.

    Args:
        plm: as `load_encoder` takes it.
        label: what people see.
        id: names its folders: weights or organisation are part of it, so no two encoders share one.
    """

    plm: str
    label: str
    id: str


@dataclass(frozen=True)
class Cell:
    """A part with an encoder."""

    part: Part
    encoder: EncoderChoice

    @property
    def id(self) -> str:
        """Return `<task>/<data set>/<encoder>`: the cell's folder below `cells`."""
        return f"{self.part.id}/{self.encoder.id}"

    def folder(self, output_dir: Path | str) -> Path:
        """Return the cell's folder."""
        return Path(output_dir) / CELLS / self.id


@dataclass(frozen=True)
class CellResult:
    """A finished cell: cell.json, and per metric the values of each row and seed."""

    about: dict[str, Any]
    groups: np.ndarray  # (R,) str: user or query text of a row; rows of one stand or fall together
    values: dict[str, np.ndarray]  # metric -> (S, R) float64, seeds in the order of about["seeds"]

    @property
    def part(self) -> str:
        """Return `<task>/<data set>`."""
        return f"{self.about['task']}/{self.about['dataset']}"

    @property
    def main(self) -> np.ndarray:
        """Return the values of the cell's metric, (S, R)."""
        return self.values[self.about["metric"]]


def choose_encoders(text: str) -> list[EncoderChoice]:
    """Return the encoders of a command line: A,B,C, each a `plm` or NAME=plm.

    Raises:
        InputError: none, one twice, or one that cannot be.
    """
    chosen: list[EncoderChoice] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        given = GIVEN_NAME.fullmatch(word)
        name, plm = (given["name"], given["plm"]) if given else (None, word)
        own = encoder_id(plm)
        require_client(plm)
        twice = [one for one in chosen if own == one.id or (name or own) == one.label]
        if twice:
            raise InputError(f"--plm names {twice[0].label} and {name or own}: the same encoder, or one name for two")
        chosen.append(EncoderChoice(plm, name or own, own))
    if not chosen:
        raise InputError("--plm names no encoder; expected hub ids, folders or tfidf-svd joined by commas")
    return chosen


def encoder_id(plm: str) -> str:
    """Return the name of an encoder's folders: of a hub id all of it, of a folder its name and its weights' hash."""
    kind, value = resolve_plm(plm)
    name = value.replace("/", "--") if kind == "hub" else encoder_name(plm)
    if not NAME.fullmatch(name):
        raise InputError(f"the encoder {plm} has the name {name!r}, which cannot be a folder's; rename its folder")
    return name


def public_plm(plm: str) -> str:
    """Return how others may name the encoder: a folder of this machine by its last part alone."""
    kind, value = resolve_plm(plm)
    return value.name if kind == "folder" else plm if kind != "vectors" else f"vectors:{value.source}"


def save_cell(folder: Path, about: Mapping[str, Any], table: pa.Table) -> None:
    """Write a cell's values, then its result."""
    import pyarrow.parquet as pq  # heavy

    with recorded_file(folder / VALUES) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    write_own_json(folder / CELL, dict(about))


def load_about(folder: Path) -> dict[str, Any] | None:
    """Return cell.json's content; None where the cell is not finished.

    Raises:
        InputError: it is damaged.
    """
    path = folder / CELL
    if not path.exists():
        return None
    about = read_own_json(path, "a bench's cell", FIX)
    check_fields(about, FIELDS, path)
    check_fields(about["encoder"], ENCODER_FIELDS, path)
    names = (about["task"], about["dataset"], about["encoder"]["id"])
    if about["format"] != FORMAT or not all(NAME.fullmatch(name) and name.strip(".") for name in names):
        raise InputError(f"{path} is of another format, or names no folder; {FIX}")
    missing = [s for s in about["seeds"] if about["metric"] not in about["metrics"].get(str(s), {})]
    if not about["seeds"] or missing or not isinstance(about["data"].get("sha256"), str):
        raise InputError(f"{path} lacks a seed's {about['metric']}, or the hash of its data; {FIX}")
    return about


def check_fields(value: object, fields: Mapping[str, type], path: Path) -> None:
    """Refuse what is no object with these fields.

    Raises:
        InputError: names the first.
    """
    known = value if isinstance(value, dict) else {}
    wrong = [key for key, kind in fields.items() if not isinstance(known.get(key), kind)]
    if wrong:
        raise InputError(f"{path} has no {wrong[0]} of type {fields[wrong[0]].__name__}: it is damaged; {FIX}")


def load_cell(folder: Path) -> CellResult | None:
    """Return a cell; None where it is not finished.

    Raises:
        InputError: a damaged file, or values that are not those of the result.
    """
    about = load_about(folder)
    if about is None:
        return None
    path = folder / VALUES
    check_recorded(path, FIX)
    try:
        table = read_parquet(path, expected="a cell's values")
        result = from_table(about, table)
    except (InputError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())[:200]}); {FIX}") from error
    means = result.main.mean(axis=1)
    recorded = [about["metrics"][str(seed)][about["metric"]] for seed in about["seeds"]]
    if not np.allclose(means, recorded, rtol=0, atol=SAME) or not abs(means.mean() - about["value"]) < SAME:
        raise InputError(f"{path} holds other values than {CELL} beside it; {FIX}")
    return result


def from_table(about: dict[str, Any], table: pa.Table) -> CellResult:
    """Return the cell of a table that holds the rows of one seed after those of the other."""
    seeds = about["seeds"]
    column = table.column("seed").to_numpy()
    n_rows, left = divmod(len(column), len(seeds))
    if not n_rows or left or not np.array_equal(column, np.repeat(seeds, n_rows)):
        raise ValueError("its rows are not those of the seeds")
    groups = table.column("group").to_numpy(zero_copy_only=False).reshape(len(seeds), n_rows)
    if (groups != groups[0]).any():
        raise ValueError("its seeds have other rows")
    metrics = [name for name in table.column_names if name not in ("seed", "group")]
    values = {m: table.column(m).to_numpy().astype(float).reshape(len(seeds), n_rows) for m in metrics}
    if about["metric"] not in values or not all(np.isfinite(v).all() for v in values.values()):
        raise ValueError(f"it has no finite {about['metric']}")
    return CellResult(about, groups[0].astype(str), values)


def to_table(seeds: list[int], groups: list[str], values: Mapping[str, list[np.ndarray]]) -> pa.Table:
    """Return the table of values: `seed`, `group`, then each metric, from one array (R,) per seed."""
    import pyarrow as pa  # heavy

    columns = {"seed": np.repeat(np.asarray(seeds, np.int64), len(groups)), "group": groups * len(seeds)}
    return pa.table({**columns, **{name: np.concatenate(arrays) for name, arrays in values.items()}})
