"""Item texts as the released code makes them, read from the raw metadata of a build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataset_tools.builds.settings import AmazonSettings
from dataset_tools.builds.statistics_file import require_stats
from dataset_tools.raw.domains import PUBLISHED
from dataset_tools.raw.fetch import ensure_raw_file, require_raw
from recbole_blair.errors import InputError
from recbole_blair.files.read import iter_jsonl
from recbole_blair.text.item_text import released_text


def read_released_texts(
    build_dir: Path, raw_dir: Path | str, ids: Sequence[str], fields: str | None = None, progress: bool = True
) -> list[str]:
    """Return the released texts of a build's items, in the order of `ids`.

    Args:
        build_dir: folder of the build; its stats.json names the raw files.
        raw_dir: where they are; a published domain's metadata are downloaded when missing.
        ids: items wanted. An item that the metadata hold twice has the text of the last one, as in the released code.
        fields: of the metadata, joined by commas; None: title, features, categories, description.
        progress: draw progress bars.

    Raises:
        InputError: a build that is not made from metadata of Amazon's form, or metadata that lack items.
    """
    settings = require_stats(build_dir)["settings"]
    if "source" in settings:
        raise InputError(
            f"text_recipe=released is made from Amazon's raw metadata, but {build_dir} was prepared from files of your "
            "own; leave it out, or choose columns by text_fields"
        )
    name = AmazonSettings(**settings).raw_name
    if name in PUBLISHED:
        path = ensure_raw_file(raw_dir, "meta", name, settings["revision"], progress)
    else:
        path = require_raw(raw_dir, "meta", name)
    wanted, texts = set(ids), {}
    for _, meta in iter_jsonl(path, "raw metadata, an item per line", keep_surrogates=True):
        if meta.get("parent_asin") in wanted:
            texts[meta["parent_asin"]] = released_text(meta, fields)
    missing = [item for item in ids if item not in texts]
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of the {len(ids)} items of {build_dir} (first: {missing[0]}); it is not the "
            "file that the build was made from: name another --raw_dir"
        )
    return [texts[item] for item in ids]
