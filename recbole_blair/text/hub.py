"""Snapshots of models on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_blair.errors import InputError
from recbole_blair.schema import TFIDF_SVD
from recbole_blair.text.weights import weight_files

WITHOUT_NETWORK = f"or give the folder of a downloaded encoder, or --plm={TFIDF_SVD}, which needs no download"


def fetch_snapshot(hub_id: str, revision: str | None, cache_dir: str | None) -> Path:
    """Download what is missing of a hub model (resumes, shows bars) and return its snapshot folder.

    Raises:
        InputError: unknown or gated id, unknown revision, or no network and not in the cache.
    """
    # heavy: the hub's client
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    options: dict[str, Any] = {
        "revision": revision,
        "cache_dir": cache_dir,
        "ignore_patterns": ["*/*.safetensors", "*/*.bin"],
    }
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=wanted, **options))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(hub_id, allow_patterns=[*wanted, "pytorch_model*.bin*"], **options))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        if getattr(error, "errno", None) is not None:  # a full disk and its like: the command line says so
            raise
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"--plm={hub_id}{at} is no folder here and could not be fetched from the Hugging Face hub "
            f"({first_line(error)}); check the name and the network, {WITHOUT_NETWORK}"
        ) from None
    weight_files(folder)
    return folder


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
