"""`<build>.stats.json`: what a build is made from and what it holds; written last, so its presence means whole."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.conversion.file_names import build_file_names
from recbole_blair.errors import InputError
from recbole_blair.files.build_files import FILES_CRC32
from recbole_blair.files.checksum import file_crc32
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.schema import PROTOCOLS, SPLITS, STATS_SUFFIX, VERSION, format_setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dataset_tools.conversion.settings import BuildSettings

FORMAT = 1  # raised when the files' layout or the cleaning changes: older builds are then refused


def stats_path(folder: Path | str) -> Path:
    """Return the place of the statistics of the build in `folder`."""
    folder = Path(folder)
    return folder / f"{folder.name}{STATS_SUFFIX}"


def describe_build(
    folder: Path, build: str, settings: BuildSettings, raw_files: list[dict[str, Any]], counts: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of stats.json.

    Args:
        folder: where the data files of the build lie now.
        build: its name.
        settings: what it was made with.
        raw_files: what it was made from, each as `describe_file` returns it.
        counts: what the conversion found, as `conversion.convert` returns it.
    """
    return {
        "build": build,
        "format": FORMAT,
        "tool_version": VERSION,
        "settings": settings.to_json(),
        "raw_files": raw_files,
        "files": {name: (folder / name).stat().st_size for name in build_file_names(build)},
        FILES_CRC32: {name: file_crc32(folder / name) for name in build_file_names(build)},
        **counts,
    }


def describe_file(path: Path, entry: Sequence[Any]) -> dict[str, Any]:
    """Return what stats.json says of a file that a build was made from; `entry` as `raw_digests.DIGESTS` has it."""
    return {"name": path.name, "bytes": entry[0], "sha256": entry[3]}


def load_stats(folder: Path | str) -> dict[str, Any] | None:
    """Return the statistics of a build, or None when it has none (it is absent or not whole).

    Raises:
        InputError: the file is there but cannot be read.
    """
    path, fix = stats_path(folder), "delete it and run prepare again"
    if not path.exists():
        return None
    stats = read_own_json(path, "the statistics of a build", fix, ("settings",))
    if not isinstance(stats["settings"], dict):
        raise InputError(f"{path} is damaged: its settings are no object; {fix}")
    return stats


def list_builds(data_path: Path | str) -> list[str]:
    """Return the builds in a folder as `--dataset` names them, each followed by the protocol that is not the default.

    One that another tool made, or whose statistics are damaged, is named by its folder.
    """
    names: dict[str, None] = {}
    for file in sorted(Path(data_path).glob(f"*/*.{SPLITS[0]}.inter")):
        if file.name == f"{file.parent.name}.{SPLITS[0]}.inter":
            try:
                settings = (load_stats(file.parent) or {}).get("settings", {})
            except InputError:
                settings = {}
            other = settings.get("protocol", PROTOCOLS[0]) != PROTOCOLS[0]
            protocol = f" --protocol={settings['protocol']}" if other else ""
            names[f"{settings.get('dataset', file.parent.name)}{protocol}"] = None
    return list(names)


def require_stats(folder: Path | str) -> dict[str, Any]:
    """Return the statistics of a build that must be there."""
    stats = load_stats(folder)
    if stats is None:
        raise InputError(f"{stats_path(folder)} is missing: the build is not whole; run prepare again")
    return stats


def write_stats(folder: Path | str, stats: dict[str, Any]) -> None:
    """Write the statistics: from then on the build is whole."""
    write_own_json(stats_path(folder), stats)


def check_format(folder: Path | str, stats: dict[str, Any]) -> None:
    """Refuse a build whose files are laid out as another version lays them out."""
    if stats.get("format") != FORMAT:
        raise InputError(
            f"{stats_path(folder)} has format {stats.get('format')!r}, this version writes {FORMAT}; {_fix(folder)}"
        )


def check_settings(folder: Path | str, stats: dict[str, Any], settings: BuildSettings) -> None:
    """Refuse a build made with other settings.

    Raises:
        InputError: names the first setting that differs, both values and the fix.
    """
    check_format(folder, stats)
    defaults = {field.name: field.default for field in fields(settings)}  # of options newer than the build
    for key, asked in settings.to_json().items():
        built = stats["settings"].get(key, None if defaults[key] is MISSING else defaults[key])
        if built != asked:
            raise InputError(
                f"{stats_path(folder)} was built with {format_setting(key, built)}, asked is "
                f"{format_setting(key, asked)}; {_fix(folder)}"
            )


def _fix(folder: Path | str) -> str:
    return f"prepare --force builds {folder} again, or pass another --data_path"


def table3_line(stats: dict[str, Any]) -> str:
    """Return one line with the columns of the paper's Table 3 (arXiv:2403.03952) and the split."""
    table3, splits = stats["table3"], stats["splits"]
    rows = " / ".join(f"{splits[split]['rows']:,}" for split in SPLITS)
    return (
        f"{stats['build']}: #Items {table3['items']:,} · #Inters {table3['inters']:,} · "
        f"Avg.n {table3['avg_history_length']:.2f} · Avg.t {table3['avg_item_chars']:.2f} · "
        f"users {stats['users']:,} · rows {stats['rows']:,} (train / valid / test {rows})"
    )
