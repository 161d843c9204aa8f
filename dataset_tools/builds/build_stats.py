"""`<build>.stats.json`: what a build is made from and what it holds; written last, so its presence means whole."""

import json
from pathlib import Path

from recbole_blair.errors import InputError
from recbole_blair.files.write import write_json
from recbole_blair.schema import ITEM_SUFFIX, SPLITS, STATS_SUFFIX

FORMAT = 1  # raised when the files' layout or the cleaning changes: older builds are then refused


def stats_path(folder):
    """Return the place of the statistics of the build in `folder`."""
    folder = Path(folder)
    return folder / f"{folder.name}{STATS_SUFFIX}"


def build_file_names(build):
    """Return the data files of a build: one `.inter` a split and the `.item`."""
    return [f"{build}.{split}.inter" for split in SPLITS] + [f"{build}{ITEM_SUFFIX}"]


def load_stats(folder):
    """Return the statistics of a build, or None when it has none (it is absent or not whole).

    Raises:
        InputError: the file is there but cannot be read.
    """
    path = stats_path(folder)
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}); delete it and run prepare again") from error
    if not isinstance(stats, dict) or not isinstance(stats.get("settings"), dict):
        raise InputError(f"{path} is not the statistics of a build; delete it and run prepare again")
    return stats


def write_stats(folder, stats):
    """Write the statistics of a build."""
    write_json(stats_path(folder), stats)


def check_settings(folder, stats, settings):
    """Refuse a build made with other settings.

    Raises:
        InputError: names the first setting that differs, both values and the fix.
    """
    path = stats_path(folder)
    fix = f"delete {folder} to build it again, or pass another --data_path"
    if stats.get("format") != FORMAT:
        raise InputError(f"{path} has format {stats.get('format')!r}, this version writes {FORMAT}; {fix}")
    for key, asked in settings.items():
        found = stats["settings"].get(key)
        if found != asked:
            raise InputError(f"{path} was built with {key}={found!r}, asked is {key}={asked!r}; {fix}")


def table3_line(stats):
    """Return one line with the columns of the paper's Table 3 (arXiv:2403.03952) and the split."""
    table3, splits = stats["table3"], stats["splits"]
    rows = " / ".join(f"{splits[split]['rows']:,}" for split in SPLITS)
    return (
        f"{stats['build']}: #Items {table3['items']:,} · #Inters {table3['inters']:,} · "
        f"Avg.n {table3['avg_history_length']:.2f} · Avg.t {table3['avg_item_chars']:.2f} · "
        f"users {stats['users']:,} · rows {stats['rows']:,} (train / valid / test {rows})"
    )
