"""Sends a run, a text encoder or the text features of a build to the hub: safetensors, JSON, text, and a card.

Of a run goes what recommending needs. No row of a build, no user id and no history is ever among it, and a model with
weights per user is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.config import Config
from recbole_blair.data.catalogue_dataset import ABOUT, COUNTS, CatalogueDataset, count, describe
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import CHECKSUMS, checksums_text, file_sha256
from recbole_blair.files.own_json import read_own_json
from recbole_blair.files.read import shown
from recbole_blair.files.write import work_folder
from recbole_blair.runs.cards import encoder_card, features_card, run_card
from recbole_blair.runs.hub_client import LOG_IN, check_repo, explained
from recbole_blair.runs.hub_layout import (
    CARD,
    CATALOGUE,
    FEATURES,
    HEADER,
    ITEMS,
    OWN_KEYS,
    VECTORS,
    pushed_build,
    write_tensor,
)
from recbole_blair.runs.open_run import OpenRun, Places, open_run
from recbole_blair.schema import FEATURE_SUFFIX, ITEM_ID, ITEM_SUFFIX, VERSION
from recbole_blair.text.encoders import resolve_plm
from recbole_blair.text.features import find_encoder_files, load_features, read_item_texts
from recbole_blair.text.hub import encoder_files
from recbole_blair.text.item_text import text_hash
from recbole_blair.text.vectors import IDS_FILE
from recbole_blair.text.weights import weights_hash
from recbole_blair.train import checkpoint
from recbole_blair.train.run_folder import CHECKPOINT, CONFIG, ENCODER, METRICS, load_config, save_config

if TYPE_CHECKING:
    import numpy as np

PRETRAINING = "pretraining/metrics.json"  # in the folder of an encoder that `pretrain` made
EXPECTED = f"a run's folder, an encoder's folder, or a feature file (<build>.<encoder>{FEATURE_SUFFIX})"


@dataclass
class Package:
    """What is sent.

    Attributes:
        repo_type: model or dataset.
        files: contents, or where they are, by their names on the hub.
    """

    repo_type: str
    files: dict[str, bytes | Path]

    @property
    def card(self) -> str:
        """The text of README.md."""
        card = self.files[CARD]
        return card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")

    def sizes(self) -> dict[str, int]:
        """Return bytes by name."""
        return {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in sorted(self.files.items())}


@dataclass
class Target:
    """Where to: a repository, whether it is made private, and its branch (None: main)."""

    repo: str
    private: bool = False
    revision: str | None = None


@contextlib.contextmanager
def packed(source: Path | str, repo: str, places: Places | None = None) -> Iterator[Package]:
    """Yield what is sent of a run, an encoder or features.

    Args:
        source: a folder, or a feature file.
        repo: where it goes, named in the card.
        places: of a run: what is elsewhere now.

    Raises:
        InputError: none of the three, or damaged; a run that has not ended; a model that knows users.
    """
    path = Path(os.path.expanduser(source))
    with work_folder(Path(tempfile.gettempdir()) / "recbole-blair-push") as work:
        if (path / CONFIG).is_file():
            yield pack_run(path, repo, work, places)
        elif (path / "config.json").is_file() or (path / "modules.json").is_file():
            yield pack_encoder(path, repo)
        elif path.is_file() and path.name.endswith(FEATURE_SUFFIX):
            yield pack_features(path, repo, work)
        else:
            raise InputError(f"{shown(path)} is nothing that can be pushed{hint(path)}; give {EXPECTED}")


def hint(path: Path) -> str:
    """Return what to name instead of a build's folder."""
    files = find_encoder_files(path).values() if path.is_dir() else []
    return f": a build, with the feature files {', '.join(map(str, files))}" if files else ""


def pack_run(folder: Path, repo: str, work: Path, places: Places | None = None) -> Package:
    """Return what is sent of a run; see `packed`."""
    if pushed_build(folder) is not None:
        raise InputError(f"{folder} came from the hub; push the run that it was made from")
    run = open_run(folder, places or Places(device="cpu"))
    if not run.metrics:
        raise InputError(f"{folder} has not ended; finish it by `recbole-blair train --resume={folder}`")
    if run.info.ranks_users:
        raise InputError(
            f"{folder} cannot be pushed: {run.info.name} ranks for users it was trained on, who are never sent"
        )
    about, counts = describe(run.dataset, run.encoder), count(run.dataset)
    features = features_of(run)  # what is wrong with them is said first
    run.weights  # noqa: B018  and with these
    check_without_users(run, CatalogueDataset(run.dataset.build_dir, run.dataset.item_tokens, about, counts))
    plm = hub_encoder(load_config(folder).get("plm"))
    config, on_hub = shared_config(folder, run.encoder, plm), None
    if run.encoder and not (folder / ENCODER).is_dir() and plm and "/" in plm:
        on_hub = plm
    save_config(work, config)
    files: dict[str, bytes | Path] = {
        CONFIG: (work / CONFIG).read_bytes(),
        METRICS: folder / METRICS,
        **{f"{CHECKPOINT}/{name}": content for name, content in best_weights(folder).items()},
        f"{CATALOGUE}/{ABOUT}": as_json(about),
        f"{CATALOGUE}/{COUNTS}": tensors_bytes(counts),
        ITEMS: items_of(run),
    }
    if features is not None:
        write_tensor(work / VECTORS, features[0])
        files |= {FEATURES: work / VECTORS, HEADER: as_json(features[1])}
    if (folder / ENCODER).is_dir():
        files |= pack_folder(folder / ENCODER, f"{ENCODER}/")
    files[CHECKSUMS] = checksums_of(files)
    return Package("model", {**files, CARD: run_card(run, repo, on_hub).encode()})


def features_of(run: OpenRun) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Return a run's text features (N - 1, D) and their header; None of a model of ids."""
    if run.encoder is None:
        return None
    array, header = read_features(run.dataset.build_dir, run.encoder)
    if header["text_sha256"] is None:  # upstream's pair: from now on these features and these texts belong together
        header = {**header, "text_sha256": text_hash(read_item_texts(run.dataset.build_dir)[1])}
    return array, header


def read_features(build_dir: Path, encoder: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return an encoder's features of a build and their header, without the address of an API's server."""
    array, header = load_features(build_dir, encoder)
    return array, {key: value for key, value in header.items() if key != "endpoint"}


def check_without_users(run: OpenRun, items_alone: CatalogueDataset) -> None:
    """Refuse a model that cannot be opened without the users of its build.

    Raises:
        InputError: it has weights per user, or asks for rows.
    """
    try:
        _ = OpenRun(run.folder, run.info, run.config, items_alone, run.metrics, run.encoder).model
    except InputError as error:
        raise InputError(
            f"{run.folder} cannot be pushed: {run.info.name} needs its users, who are never sent ({error})"
        ) from error


def hub_encoder(plm: object) -> str | None:
    """Return a run's encoder as others can name it: a hub id, tfidf-svd, openai:NAME; None for a file or a folder."""
    try:
        kind, _ = resolve_plm(str(plm))
    except InputError:  # a folder that has gone
        return None
    return str(plm).strip() if plm and kind not in ("folder", "vectors") else None


def shared_config(folder: Path, encoder: str | None, plm: str | None) -> Config:
    """Return a run's configuration without what is of this machine; an encoder's folder is one that has gone."""
    saved = load_config(folder)
    kept = {key: value for key, value in saved.items() if key not in OWN_KEYS}
    if plm is None:
        kept.pop("plm", None)
        kept.update({"plm": f"./{encoder}"} if encoder else {})
    return Config(kept)


def best_weights(folder: Path) -> dict[str, bytes | Path]:
    """Return the best weights and their checksum, of which the list holds nothing else."""
    path = checkpoint.best_path(folder)
    return {path.name: path, CHECKSUMS: checksums_text({path.name: file_sha256(path)}).encode()}


def items_of(run: OpenRun) -> bytes | Path:
    """Return the `.item` file, or the ids alone of a build without one."""
    path = run.dataset.build_dir / f"{run.dataset.name}{ITEM_SUFFIX}"
    ids = run.dataset.item_tokens.to_pylist()
    return path if path.is_file() else "".join(f"{line}\n" for line in (f"{ITEM_ID}:token", *ids)).encode()


def pack_folder(folder: Path, prefix: str = "") -> dict[str, bytes | Path]:
    """Return the files of an encoder's folder, with a list of their checksums of its own."""
    weights_hash(folder)  # refuses a damaged one
    names = encoder_files(folder)
    sums = checksums_text({name: file_sha256(folder / name) for name in names}).encode()
    return {**{f"{prefix}{name}": folder / name for name in names}, f"{prefix}{CHECKSUMS}": sums}


def pack_encoder(folder: Path, repo: str) -> Package:
    """Return what is sent of an encoder; see `packed`."""
    files = pack_folder(folder)
    path, after = folder / PRETRAINING, {}
    if path.is_file():
        after = read_own_json(path, "a pretraining's results", "delete it, or run `pretrain` again", ("after",))[
            "after"
        ]
    return Package("model", {**files, CARD: encoder_card(folder, repo, after).encode()})


def pack_features(path: Path, repo: str, work: Path) -> Package:
    """Return what is sent of a feature file; see `packed`."""
    build = path.absolute().parent
    encoder = {file: name for name, file in find_encoder_files(build).items()}.get(path.absolute())
    if encoder is None:
        raise InputError(
            f"{path} is not in its build's folder: {build.name}.<encoder>{FEATURE_SUFFIX} was expected there"
        )
    array, header = read_features(build, encoder)
    write_tensor(work / VECTORS, array)
    ids = read_item_texts(build, header.get("text_fields"))[0]
    files: dict[str, bytes | Path] = {
        VECTORS: work / VECTORS,
        "features.json": as_json(header),
        IDS_FILE: "".join(f"{item}\n" for item in ids).encode(),
    }
    files[CHECKSUMS] = checksums_of(files)
    return Package("dataset", {**files, CARD: features_card(header, build.name, repo).encode()})


def as_json(value: dict[str, Any]) -> bytes:
    """Return JSON that people read."""
    return f"{json.dumps(value, indent=1)}\n".encode()


def tensors_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Return a safetensors file's content."""
    from safetensors.numpy import save  # heavy

    return save(arrays)


def checksums_of(files: dict[str, bytes | Path]) -> bytes:
    """Return the list of the SHA-256 of files."""
    digests = {n: file_sha256(f) if isinstance(f, Path) else hashlib.sha256(f).hexdigest() for n, f in files.items()}
    return checksums_text(digests).encode()


def check_may_send() -> None:
    """Refuse to prepare what cannot be sent.

    Raises:
        InputError: HF_HUB_OFFLINE is set, or there is no token.
    """
    # heavy: the hub's client
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or add --dry_run")
    if get_token() is None:
        raise InputError(f"pushing needs a token of the hub: {LOG_IN}; --dry_run needs none")


def send(package: Package, target: Target) -> tuple[str, bool]:
    """Send a package in one commit. What the hub has already is not sent again.

    Returns:
        The address of the commit, and whether it is a new one.

    Raises:
        InputError: the hub refuses it, or does not answer.
    """
    # heavy: the hub's client
    from huggingface_hub import CommitOperationAdd, HfApi

    repo, kind = check_repo(target.repo), package.repo_type
    api = HfApi(library_name="recbole_blair", library_version=VERSION)
    with explained(f"pushing to {repo} failed"):
        api.create_repo(repo, repo_type=kind, private=target.private or None, exist_ok=True)
        if target.revision not in (None, "main"):
            api.create_branch(repo, repo_type=kind, branch=target.revision, exist_ok=True)
        before = api.repo_info(repo, repo_type=kind, revision=target.revision).sha
        done = api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in sorted(package.files.items())],
            commit_message=f"Pushed by recbole_blair {VERSION}",
            repo_type=kind,
            revision=target.revision,
        )
    return done.commit_url, done.oid != before
