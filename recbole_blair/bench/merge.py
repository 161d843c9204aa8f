"""Joins the finished cells of several benches into one: of the same suite, on the same data."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from recbole_blair.bench.cells import CELL, CELLS, VALUES, CellResult
from recbole_blair.bench.results import Board, require_alike
from recbole_blair.bench.run import BENCH, conclude, load_cells, only_bench
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import CHECKSUMS
from recbole_blair.files.output import check_output_folder
from recbole_blair.files.own_json import write_own_json
from recbole_blair.files.read import why_no_folder
from recbole_blair.files.write import whole_folder


def merge(folders: Sequence[Path | str], output_dir: Path | str, samples: int) -> Board:
    """Copy the finished cells of benches into one folder and write its results.

    Args:
        folders: of benches.
        output_dir: of the joined bench; one that was joined before takes more.
        samples: of the bootstrap.

    Raises:
        InputError: a folder without finished cells, another suite, other settings or data, two results for one cell.
    """
    found = [(Path(folder), load_finished(Path(folder))) for folder in folders]
    joined = Path(output_dir)
    if joined.is_dir():
        found.insert(0, (joined, load_cells(joined)))
    kept: dict[str, tuple[Path, CellResult]] = {}
    for folder, cells in found:
        for cell in cells:
            name = f"{cell.part}/{cell.about['encoder']['id']}"
            if name in kept and kept[name][1].about["metrics"] != cell.about["metrics"]:
                raise InputError(
                    f"{name} is in {kept[name][0]} and in {folder} with other results; leave one of the folders out"
                )
            kept.setdefault(name, (folder, cell))
    suite = check_joinable([cell for _, cell in kept.values()])
    with only_bench(check_output_folder(joined)):
        for name, (folder, _) in kept.items():
            if folder != joined:
                copy_cell(folder / CELLS / name, joined / CELLS / name)
        write_own_json(joined / BENCH, {"suite": suite})
        return conclude(joined, suite, samples)


def load_finished(folder: Path) -> list[CellResult]:
    """Return the cells of a bench.

    Raises:
        InputError: no folder, or none with a finished cell.
    """
    reason = why_no_folder(folder)
    if reason:
        raise InputError(f"{folder}: {reason}; expected the folder of a bench")
    cells = load_cells(folder)
    if not cells:
        raise InputError(f"{folder} holds no finished cell of a bench")
    return cells


def check_joinable(cells: Sequence[CellResult]) -> str:
    """Return the suite of cells that may stand in one leaderboard.

    Raises:
        InputError: several suites, or one part with other settings or data.
    """
    suites = sorted({cell.about["suite"] for cell in cells})
    if len(suites) > 1:
        raise InputError(f"these benches are of the suites {' and '.join(suites)}; join those of one suite")
    by_part: dict[str, list[CellResult]] = {}
    for cell in cells:
        by_part.setdefault(cell.part, []).append(cell)
    for part, own in by_part.items():
        if len({cell.about["part_sha256"] for cell in own}) > 1:
            raise InputError(f"{part} was made with other settings in one of these benches; make it again there")
        require_alike(part, own)
    return suites[0]


def copy_cell(source: Path, target: Path) -> None:
    """Copy a cell's values and result."""
    with whole_folder(target) as temporary:
        for name in (VALUES, CELL, CHECKSUMS):
            if name == CHECKSUMS and not (source / name).is_file():  # of an earlier version
                continue
            shutil.copyfile(source / name, temporary / name)
