"""`--dry_run`: what prepare would do, with its disk, memory and rough time."""

import shutil

from dataset_tools.raw.domains import find_raw_file, raw_relative, raw_root

# Published sizes are not listed by the repository without a request, so an absent file is estimated from the domain's
# reviews: bytes a review and an item take in the raw files, measured on Video_Games.
GZIP_RATIO = 3.5
OUTPUT_SHARE = 0.35  # atomic files, as a share of the raw bytes
WORK_SHARE = 0.4  # temporary database and spill files, as a share of the raw bytes
CONVERT_BYTES_PER_S = 150e6  # raw, unpacked, on two cores
SAMPLE_BYTES_A_USER = 3_000


def describe_plan(folder, settings, raw_dir, memory_limit):
    """Return the lines that say what exists, what would be made, and what it takes.

    Raises:
        InputError: the build in `folder` was made with other settings.
    """
    from dataset_tools.prepare import build_is_whole, raw_name

    if build_is_whole(folder, settings):
        return f"build      {folder}: there and whole; nothing to do"
    name = raw_name(settings)
    lines, raw_bytes, missing = [], 0, False
    for kind in ("review", "meta"):
        path = find_raw_file(raw_dir, kind, name)
        if path is not None:
            size = path.stat().st_size
            raw_bytes += int(size * (GZIP_RATIO if path.suffix == ".gz" else 1))
            lines.append(f"raw        {path}: there, {_mib(size)}")
            continue
        missing = True
        place = raw_root(raw_dir) / raw_relative(kind, name)
        how = "to be generated" if settings["sample_users"] else "to be downloaded; its size is known on connecting"
        lines.append(f"raw        {place}: {how}")
    if settings["sample_users"] and missing:
        raw_bytes = settings["sample_users"] * SAMPLE_BYTES_A_USER
    lines.append(_build_line(folder, settings, raw_bytes, memory_limit, missing and not settings["sample_users"]))
    return "\n".join(lines)


def _build_line(folder, settings, raw_bytes, memory_limit, unknown):
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = _mib(shutil.disk_usage(parent).free)
    if unknown:
        need = (
            f"disk about {OUTPUT_SHARE + WORK_SHARE:.0%} of the unpacked raw files (two thirds of it temporary)"
            f", a second per {CONVERT_BYTES_PER_S / 1e6:.0f} MB of them"
        )
    else:
        seconds = max(1, round(raw_bytes / CONVERT_BYTES_PER_S))
        need = (
            f"disk about {_mib(raw_bytes * OUTPUT_SHARE)} and {_mib(raw_bytes * WORK_SHARE)} while it runs, "
            f"roughly {seconds} s"
        )
    return (
        f"build      {folder}: to be converted ({settings['protocol']}), {need}, memory up to {memory_limit} for "
        f"DuckDB and as much, 2 GiB at most, beside it; {free} are free"
    )


def _mib(size):
    return f"{size / 2**20:,.1f} MiB"
