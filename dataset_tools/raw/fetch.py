"""Get the raw files of a dataset: those at hand, else downloaded, or generated for the sample."""

from dataset_tools.raw.domains import PUBLISHED, find_raw_file, raw_relative, raw_root
from recbole_blair.errors import InputError


def find_raw(raw_dir, name):
    """Return (review path, metadata path); None for one that is not there."""
    return find_raw_file(raw_dir, "review", name), find_raw_file(raw_dir, "meta", name)


def ensure_raw(raw_dir, settings, name, progress=True):
    """Return the paths of both raw files, made or downloaded where missing.

    Raises:
        InputError: they cannot be had; says which files to put where.
    """
    if settings["sample_users"] is not None:
        from dataset_tools.raw.sample import write_sample

        root = raw_root(raw_dir)
        return write_sample(root, name, settings["sample_users"], settings["sample_items"], progress)
    if settings["dataset"] in PUBLISHED:
        from dataset_tools.raw.download import download_raw

        return download_raw(raw_dir, name, settings["revision"], progress)
    paths = find_raw(raw_dir, name)
    for path, kind in zip(paths, ("review", "meta")):
        if path is None:
            raise InputError(
                f"{raw_root(raw_dir) / raw_relative(kind, name)}[.gz] is missing; put the file there, or name "
                "another --raw_dir"
            )
    return paths


def plan_line(folder, settings, raw_dir, memory_limit):
    """Return what `prepare` would do: what exists, disk, memory and rough time."""
    from dataset_tools.builds.dry_run import describe_plan

    return describe_plan(folder, settings, raw_dir, memory_limit)
