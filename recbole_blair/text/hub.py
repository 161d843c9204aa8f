"""Files of the Hugging Face hub: of a model exactly those that its modules name, of a data set a file of vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from recbole_blair.errors import InputError
from recbole_blair.schema import TFIDF_SVD
from recbole_blair.text.layout import DOCUMENT, QUERY, Layout, module_places, read_layout
from recbole_blair.text.weights import hash_files, head_files, weight_files

WITHOUT_NETWORK = f"or give the folder of a downloaded encoder, or --plm={TFIDF_SVD}, which needs no download"
MODULE_CONFIGS = ("config.json", "sentence_bert_config.json", "router_config.json")
# What says of what a model consists. Sub-folders that no module names (onnx, openvino …) are not fetched.
OUTLINE = ("modules.json", "config_sentence_transformers.json", "1_Pooling/config.json", *MODULE_CONFIGS)
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")
HUB_FILE = re.compile(r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w.-]+))?/(?P<file>[^@*?\[\]#]+)")
LISTED = 20  # names in a message
SHA256 = re.compile(r"[0-9a-f]{64}")  # what the hub's cache calls a large file
TORCH_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-?????-of-?????.bin")


def fetch_snapshot(hub_id: str, revision: str | None, cache_dir: str | None) -> Path:
    """Download what is missing of a hub model (resumes, shows bars) and return its snapshot folder.

    Raises:
        InputError: unknown or gated id, unknown revision, no network and not in the cache, or a model with modules that
            are not offered (nothing but JSON is then downloaded).
    """
    # heavy: the hub's client
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = _download(hub_id, revision, cache_dir, OUTLINE)
        commit = folder.name  # what follows is of this commit, even if the branch moves meanwhile
        places = [place for place in module_places(folder) if place]
        if places:
            _download(hub_id, commit, cache_dir, [f"{place}/{name}" for place in places for name in MODULE_CONFIGS])
        sides = [read_layout(folder, task) for task in (DOCUMENT, QUERY)]
        _download(hub_id, commit, cache_dir, sorted({name for side in sides for name in side_files(side)}))
        for side in sides:
            if not list(side.backbone.glob("*.safetensors")):
                _download(hub_id, commit, cache_dir, _inside(side.place, TORCH_WEIGHTS))
            weight_files(side.backbone)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        if getattr(error, "errno", None) is not None:  # a full disk and its like: the command line says so
            raise
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"--plm={hub_id}{at} is no folder here and could not be fetched from the Hugging Face hub "
            f"({first_line(error)}); check the name and the network, {WITHOUT_NETWORK}"
        ) from None
    return folder


@lru_cache(maxsize=8)
def fetch_dataset_file(address: str, beside: tuple[str, ...] = ()) -> Path:
    """Download one file of a hub data set into the hub's cache, if it is not there, and return its path.

    Args:
        address: `hf://datasets/<organisation>/<name>[@<revision>]/<path>`.
        beside: names of files in the same folder that come along where they are there.

    Raises:
        InputError: no such address, data set, revision or file; no network and not in the cache; or a file that is not
            the one that the hub names.
    """
    # heavy: the hub's client
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    named = HUB_FILE.fullmatch(address)
    if not named or ".." in named["file"].split("/"):
        raise InputError(f"{address} is no file of a hub data set; expected hf://datasets/ORGANISATION/NAME/PATH")
    repo, revision, file = named["repo"], named["revision"], named["file"]
    place = file.rpartition("/")[0]
    try:
        folder = _download(repo, revision, None, [file, *_inside(place, beside)], "dataset")
        if not (folder / file).is_file():
            raise InputError(f"{address}: {repo} has no such file; {_say_files(repo, revision, Path(file).suffix)}")
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        if getattr(error, "errno", None) is not None:  # a full disk and its like: the command line says so
            raise
        raise InputError(
            f"{address} could not be fetched from the Hugging Face hub ({first_line(error)}); check the name and the "
            "network, or give a downloaded file"
        ) from None
    blob = (folder / file).resolve()
    if SHA256.fullmatch(blob.name) and hash_files([blob]) != blob.name:
        raise InputError(f"{blob} is damaged: its SHA-256 is not that of the hub's file; delete it and try again")
    return folder / file


def _say_files(repo: str, revision: str | None, suffix: str) -> str:
    """Tell which files of a kind a hub data set has."""
    from huggingface_hub import HfApi  # heavy

    names = HfApi().list_repo_files(repo, revision=revision, repo_type="dataset")
    alike = sorted(name for name in names if name.endswith(suffix))
    more = f" and {len(alike) - LISTED} more" if len(alike) > LISTED else ""
    return f"of this kind it has {', '.join(alike[:LISTED]) or 'none'}{more}"


def side_files(layout: Layout) -> Iterator[str]:
    """Yield the patterns of the files of one side: transformer, tokenizer, the modules after them."""
    yield from _inside(layout.place, (*MODULE_CONFIGS, *TOKENIZER, *SAFETENSORS))
    for head in layout.heads:
        if head.place:
            yield from _inside(head.place, ("config.json", "model.safetensors", "pytorch_model.bin"))


def encoder_files(folder: Path) -> list[str]:
    """Return the files of an encoder's folder that `fetch_snapshot` would fetch, by their paths in it.

    Raises:
        InputError: no encoder, one with modules that are not offered, or weights that are no safetensors.
    """
    sides = [read_layout(folder, task) for task in (DOCUMENT, QUERY)]
    for path in [path for side in sides for path in (*weight_files(side.backbone), *head_files(side))]:
        if path.suffix != ".safetensors":
            raise InputError(f"{path} is a pickle; save the encoder again as safetensors (save_pretrained does)")
    patterns = {*OUTLINE, *(name for side in sides for name in side_files(side))}
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file() and path.suffix != ".bin"}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def cached_snapshot(hub_id: str, revision: str | None, cache_dir: str | None) -> Path | None:
    """Return a hub model's snapshot folder if it is in the cache; asks no network."""
    # heavy: the hub's client
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, cache_dir=cache_dir, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _inside(place: str, names: Sequence[str]) -> list[str]:
    """Return names in a module's folder."""
    return [f"{place}/{name}" if place else name for name in names]


def _download(
    hub_id: str, revision: str | None, cache_dir: str | None, patterns: Sequence[str], kind: str = "model"
) -> Path:
    """Download the files that match and return the snapshot folder."""
    from huggingface_hub import snapshot_download  # heavy

    return Path(
        snapshot_download(hub_id, repo_type=kind, revision=revision, cache_dir=cache_dir, allow_patterns=list(patterns))
    )
