"""Missing raw files from the Hugging Face repository of Amazon Reviews 2023, by plain HTTP through huggingface_hub.

The hub client answers what a file is (size, hash, commit) and moves the bytes; the partial file is kept by us, since
the client of today drops it when a process ends, and these files reach tens of GB. A file takes its name only
when its size and, where the hub states one, its SHA-256 are right.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import time
from typing import TYPE_CHECKING, TypeVar

from dataset_tools.raw.domains import find_raw_file, raw_relative, raw_root
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_sha256
from recbole_blair.files.output import check_output_folder
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.write import locked_folder, put_in_place
from recbole_blair.schema import HF_DATASET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

ATTEMPTS = 5  # in a row without a new byte
CHUNK_BYTES = 1 << 20  # what a broken connection may lose; the client's own is ten times as large
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HTTP_PACKAGES = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}


def download_raw_file(raw_dir: Path | str, kind: str, name: str, revision: str = "main", progress: bool = True) -> Path:
    """Return the path of a raw file of a published domain, downloaded when it is missing.

    Args:
        raw_dir: see `dataset_tools.raw.domains.raw_root`.
        kind: review or meta.
        name: official name of the domain.
        revision: branch, tag or commit of the hub's repository.
        progress: draw progress bars.

    Raises:
        InputError: no network, offline mode, an unknown revision, a file whose hash is wrong, or a file at hand that
            was downloaded at another revision.
        OSError: ENOSPC when the disk cannot hold the file.
    """
    path = find_raw_file(raw_dir, kind, name)
    if path is not None:
        check_revision(path, revision)
        return path
    path = raw_root(raw_dir) / raw_relative(kind, name)
    download_file(path, f"raw/{raw_relative(kind, name)}", revision, progress, _missing(raw_dir, name))
    return path


def _missing(raw_dir: Path | str, name: str) -> str:
    """Return the places of the raw files that are not there, for messages."""
    places = [
        str(raw_root(raw_dir) / raw_relative(kind, name))
        for kind in ("review", "meta")
        if find_raw_file(raw_dir, kind, name) is None
    ]
    return " and ".join(f"{place}[.gz]" for place in places)


def source_path(path: Path) -> Path:
    """Return the place of the note on where a downloaded file came from."""
    return path.with_name(f".{path.name}.source.json")


def check_revision(path: Path, revision: str) -> None:
    """Refuse a downloaded file of another revision; a file put there by hand is taken as it is."""
    if revision == "main" or not source_path(path).is_file():
        return
    fix = f"delete it and {path.name}, which is then downloaded again"
    source = read_own_json(source_path(path), "where a file was downloaded from", fix, ("revision", "commit"))
    if revision != source["revision"] and not source["commit"].startswith(revision):
        raise InputError(
            f"{path} was downloaded at revision {source['revision']} (commit {source['commit']}), asked is "
            f"{revision}; delete it or pass another --raw_dir"
        )


def download_file(path: Path, filename: str, revision: str, progress: bool, missing: str) -> None:
    """Download one file of the repository to `path`, going on where an earlier run stopped."""
    check_output_folder(path.parent)
    with locked_folder(path.parent, f".{path.name}.lock"):
        if path.is_file():  # another process was faster
            return
        try:
            _download_locked(path, filename, revision, progress)
        except Exception as error:
            raise explain(error, filename, revision, missing) from error


def _download_locked(path: Path, filename: str, revision: str, progress: bool) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(HF_DATASET, filename, repo_type="dataset", revision=revision)
    remote = _retry(lambda: get_hf_file_metadata(url), lambda: 0)
    if remote.etag is None or remote.size is None:
        raise InputError(f"{url} states no size or no hash; check HF_ENDPOINT, or put the file at {path} by hand")
    size, etag = remote.size, remote.etag
    partial = path.with_name(f".{path.name}.{re.sub('[^0-9A-Za-z]', '', etag)[:16]}.part")
    for stale in path.parent.glob(f".{path.name}.*.part"):
        if stale != partial:
            stale.unlink()  # of an older version of the file
    if _size(partial) > size:
        partial.unlink()
    _check_space(partial, size)
    _retry(lambda: _fetch(url, partial, size, progress), lambda: _size(partial))
    _verify(partial, size, etag, url)
    note = {"repository": HF_DATASET, "revision": revision, "commit": remote.commit_hash or "", "etag": etag}
    write_own_json(source_path(path), note, indent=None, ensure_ascii=True)
    put_in_place(partial, path)


def _fetch(url: str, partial: Path, size: int, progress: bool) -> None:
    """Append the missing bytes to the partial file."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    with _client_settings(progress), open(partial, "ab", buffering=0) as file:
        http_get(url, file, resume_size=_size(partial), headers=build_hf_headers(), expected_size=size)


@contextlib.contextmanager
def _client_settings(progress: bool) -> Iterator[None]:
    """Set the client's chunk size and progress bars, and put them back."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    chunk, hide = constants.DOWNLOAD_CHUNK_SIZE, not progress and not are_progress_bars_disabled()
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = chunk
        if hide:
            enable_progress_bars()


def _retry(action: Callable[[], T], measure: Callable[[], int]) -> T:
    """Call `action` again after a network fault, as long as `measure()` grows within `ATTEMPTS` calls."""
    left, done = ATTEMPTS, measure()
    while True:
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
            left, done = (ATTEMPTS, measure()) if measure() > done else (left - 1, done)
            if left <= 0:
                raise
            time.sleep(0.5 * (ATTEMPTS - left))


def is_transient(error: Exception) -> bool:
    """Tell whether trying again may help: a broken connection or a server error, not a refusal or offline mode."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        return getattr(error.response, "status_code", 0) >= 500
    return "Consistency check failed" in str(error) or (is_network(error) and not _is_refused(error))


def is_network(error: Exception) -> bool:
    """Tell whether an error comes from the connection."""
    modules = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(modules & _HTTP_PACKAGES)


def _is_refused(error: Exception) -> bool:
    """Tell whether there is no connection at all (no route, no such host): waiting does not help."""
    return "ConnectError" in type(error).__name__ or "ProxyError" in type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(partial: Path, size: int) -> None:
    need = size - _size(partial)
    free = shutil.disk_usage(partial.parent).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{need:,} bytes are to come, {free:,} are free", str(partial.parent))


def _verify(partial: Path, size: int, etag: str, url: str) -> None:
    """Check size and SHA-256; a wrong file is deleted."""
    received = _size(partial)
    if received != size:
        raise InputError(f"{url} gave {received:,} bytes, {size:,} were promised; run the same command again")
    if not _SHA256.fullmatch(etag):
        return  # small files carry a git hash, which is no hash of the bytes alone
    found = file_sha256(partial)
    if found != etag:
        partial.unlink()
        raise InputError(
            f"{url} arrived with SHA-256 {found[:12]}…, promised was {etag[:12]}…; the bytes are "
            "deleted: run the same command again"
        )


def explain(error: Exception, filename: str, revision: str, missing: str) -> Exception:
    """Turn a client's error into one the user can act on; others come back as they are."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, InputError):
        return error
    way_out = f"put {missing} in place by hand (--raw_dir names the folder above raw/), or use --dataset=sample"
    if isinstance(error, RevisionNotFoundError):
        return InputError(f"{HF_DATASET} has no revision {revision!r}; use --revision=main or {way_out}")
    if isinstance(error, (EntryNotFoundError, RepositoryNotFoundError)):
        return InputError(f"{HF_DATASET} has no file {filename} at revision {revision!r}; {way_out}")
    if isinstance(error, OfflineModeIsEnabled):
        return InputError(f"{filename} is missing and HF_HUB_OFFLINE is set; unset it, or {way_out}")
    if isinstance(error, HfHubHTTPError) or is_network(error):
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return InputError(f"{filename} cannot be downloaded from {HF_DATASET} ({reason}); try again, or {way_out}")
    return error
