"""Runs from the hub: `org/name`, or `org/name@revision`, becomes a run's folder.

The files are downloaded into the hub's cache and compared with their SHA-256; the run's folder, named by the commit,
lies in its cache of assets: HF_HOME/assets/recbole_blair/<org>--<name>/<commit>.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.data.catalogue_dataset import ABOUT
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import CHECKSUMS, check_sha256, read_checksums
from recbole_blair.files.write import whole_folder
from recbole_blair.runs.hub_client import check_repo, explained
from recbole_blair.runs.hub_layout import ALLOWED, CATALOGUE, FEATURES, OWN_KEYS, iter_tensor, local_name, read_about
from recbole_blair.schema import VERSION
from recbole_blair.train.run_folder import CONFIG, load_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ON_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>\w[\w./-]*))?", re.ASCII)
NEEDED = (
    "config.yaml",
    "metrics.json",
    "checkpoint/best.safetensors",
    f"{CATALOGUE}/{ABOUT}",
    f"{CATALOGUE}/items.txt",
)
AGAIN = "the copy was removed: run the same command again; if that does not help, the run must be pushed again"


def find_run(run: Path | str) -> Path:
    """Return a run's folder; one that is none here and reads like `org/name[@revision]` is fetched from the hub.

    A path whose first part is a folder here, or a `Path`, never asks the hub.

    Raises:
        InputError: see `fetch_run`.
    """
    found = ON_HUB.fullmatch(run) if isinstance(run, str) else None
    if found is None or os.path.lexists(run) or os.path.lexists(str(run).partition("/")[0]):
        return Path(run)
    return fetch_run(found["repo"], found["revision"])


def fetch_run(repo: str, revision: str | None = None) -> Path:
    """Download what is missing of a run on the hub and return its folder.

    Args:
        repo: `org/name`.
        revision: branch, tag or commit; None: main.

    Raises:
        InputError: no such repository, no network and not in the cache, no run, a file that is not the one pushed.
    """
    from huggingface_hub import constants  # heavy: the hub's client

    at = f" at {revision}" if revision else ""
    what = f"{check_repo(repo, '--checkpoint')} is no folder here, and fetching it{at} from the hub failed"
    with explained(what):
        outline = download(repo, revision, [CHECKSUMS])
    place = Path(constants.HF_ASSETS_CACHE) / "recbole_blair" / repo.replace("/", "--") / outline.name
    if (place / CONFIG).is_file():
        return place
    with forgotten(outline / CHECKSUMS):
        recorded = read_checksums(outline, AGAIN)
    if recorded is None or not recorded.keys() >= set(NEEDED):
        raise InputError(
            f"{repo} on the hub{at} is no run that `recbole-blair push` sent; a text encoder is given by --plm={repo}"
        )
    wrong = [name for name in recorded if not ALLOWED.fullmatch(name)]
    if wrong:
        raise InputError(f"{repo} on the hub lists {wrong[0][:100]!r}, which no run has; nothing of it was downloaded")
    with explained(what):
        folder = download(repo, outline.name, list(recorded))
    for name, digests in recorded.items():
        with forgotten(folder / name, folder / CHECKSUMS):
            check_sha256(folder / name, digests, AGAIN)
    unpack(folder, sorted(recorded), place)
    return place


def download(repo: str, revision: str | None, names: Sequence[str]) -> Path:
    """Download files of a repository and return the folder of their commit."""
    from huggingface_hub import snapshot_download  # heavy: the hub's client

    folder = snapshot_download(
        repo, revision=revision, allow_patterns=list(names), library_name="recbole_blair", library_version=VERSION
    )
    return Path(folder)


@contextlib.contextmanager
def forgotten(*paths: Path) -> Iterator[None]:
    """Remove files of the hub's cache when the block refuses one of them, so that they are downloaded again."""
    try:
        yield
    except InputError:
        for path in paths:
            blob = Path(os.path.realpath(path))
            path.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
        raise


def unpack(folder: Path, names: Sequence[str], place: Path) -> None:
    """Lay out downloaded files as the folder of a run; where the file system allows they are links, not copies."""
    about = read_about(folder / CATALOGUE / ABOUT)
    named = sorted(OWN_KEYS & load_config(folder).keys())
    if named:  # above all a plugin: no file is run that the user has not named
        raise InputError(f"{folder / CONFIG} names {named[0]}, which no pushed run does; do not use this run")
    with whole_folder(place) as temporary:
        for name in names:
            target = temporary / local_name(name, about)
            target.parent.mkdir(parents=True, exist_ok=True)
            if name == FEATURES:
                with open(target, "wb") as file:
                    for rows in iter_tensor(folder / name):
                        file.write(rows.tobytes())
                continue
            source = os.path.realpath(folder / name)
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
