"""Which encoder `--plm` means: its name in file names, where its weights are, and how to load it.

Neither torch nor transformers is imported here until an encoder is loaded: training asks for names only.
"""

import hashlib
import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from recbole_blair.errors import InputError
from recbole_blair.schema import DEFAULT_PLM, TFIDF_SVD

PRECISIONS = ("auto", "fp32", "bf16")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WITHOUT_NETWORK = f"or give the folder of a downloaded encoder, or --plm={TFIDF_SVD}, which needs no download"


def encoder_name(plm, dimensions=None):
    """Return the encoder's part of a feature file's name; no model is loaded.

    Args:
        plm (str): hub id, folder, `tfidf-svd` or `openai:NAME`.
        dimensions (int | None): width asked of an API's model; None: its own.

    Returns:
        str: the hub id's last part; `<folder name>-<8 hex of the weights' SHA-256>`; `tfidf-svd`;
        `openai-<model>-<dimensions>`.

    Raises:
        InputError: a folder that is missing or holds no weights; an id that cannot be one; dimensions of an encoder
            whose width is fixed.
    """
    kind, value = resolve_plm(plm)
    check_api_options(plm, {"dimensions": dimensions})
    if kind == "openai":
        from recbole_blair.text.openai_api import api_encoder_name

        return api_encoder_name(value, dimensions)
    if kind == TFIDF_SVD:
        return TFIDF_SVD
    if kind == "hub":
        return value.rsplit("/", 1)[-1]
    return f"{value.name}-{weights_hash(value)[:8]}"


def load_encoder(
    plm, *, device="auto", precision="auto", revision=None, pooling=None, max_length=512, cache_dir=None, **api
):
    """Load an encoder.

    Args:
        plm (str): hub id, folder, `tfidf-svd` or `openai:NAME`.
        device (str): `auto` and `cuda` take every GPU there is, `cuda:1` one, `cpu` none.
        precision (str): `fp32`, `bf16`, or `auto`: bf16 where the chip multiplies it natively.
        revision (str | None): hub branch, tag or commit.
        pooling (str | None): `cls` or `mean`; None: what the model declares for itself, else `cls`.
        max_length (int): tokens kept of a text; the model's own limit holds if it is lower.
        cache_dir (str | None): where hub downloads are kept; None: the hub's own cache.
        **api: `dimensions`, `base_url`, `concurrency`, `send_dimensions` of an API's model; see `OpenAIEncoder`.

    Returns:
        Encoder: `name`, `width`, `pooling`, `description()`, `encode(texts)`, `encode_chunks(texts)`.

    Raises:
        InputError: unknown id, no network, missing folder, folder without model, unknown pooling or device.
    """
    kind, value = resolve_plm(plm)
    if max_length < 1:
        raise InputError(f"--max_length={max_length} is not a number of tokens; 512 is usual")
    check_api_options(plm, api)
    if kind == "openai":
        return _load_openai(plm, value, revision, pooling, max_length, api)
    return _LOADERS[kind](
        plm,
        value,
        device=device,
        precision=precision,
        revision=revision,
        pooling=pooling,
        max_length=max_length,
        cache_dir=cache_dir,
    )


def resolve_plm(plm):
    """Say what `plm` means: (`tfidf-svd`, None), (`openai`, NAME), (`folder`, absolute Path) or (`hub`, "
    "id)."""
    text = str(plm).strip()
    if text == TFIDF_SVD:
        return TFIDF_SVD, None
    if text.startswith("openai:"):
        return "openai", text[len("openai:") :]
    folder = Path(os.path.abspath(os.path.expanduser(text)))
    if text and folder.is_dir():
        return "folder", folder
    if text and folder.exists():
        raise InputError(f"--plm={text} is a file, expected the encoder's folder (config.json, weights, tokenizer)")
    if not _HUB_ID.fullmatch(text):
        raise InputError(
            f"--plm={text}: no such folder, and not a hub id (like {DEFAULT_PLM}) either; check the path, "
            f"{WITHOUT_NETWORK}"
        )
    return "hub", text


def weight_files(folder):
    """Return the weight files of a model folder: *.safetensors, else pytorch_model*.bin, by name.

    Raises:
        InputError: config.json or weights are missing.
    """
    folder = Path(folder)
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not found:
        missing.append("weights (model.safetensors)")
    if missing:
        raise InputError(
            f"{folder} holds no Hugging Face encoder: {' and '.join(missing)} missing; give the folder that "
            "save_pretrained wrote"
        )
    return found


def weights_hash(folder):
    """SHA-256 of a folder's weights, hex. One file: the same as `sha256sum` prints; shards: in name order."""
    stamps = []
    for path in weight_files(folder):
        stat = path.stat()
        stamps.append((str(path), stat.st_size, stat.st_mtime_ns))
    return _hash_files(tuple(stamps))


@lru_cache(maxsize=32)
def _hash_files(stamps):
    """Hash files one after the other; asked again in this process only when a size or time changed."""
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def check_api_options(plm, api):
    """Refuse options of an API's model for an encoder that has none.

    Raises:
        InputError
    """
    given = [f"--plm_{key}={api[key]}" for key in ("dimensions", "base_url") if api.get(key) is not None]
    if given and resolve_plm(plm)[0] != "openai":
        raise InputError(f"{' '.join(given)} belongs to --plm=openai:NAME, but --plm={plm}; leave it out")


def _load_lexical(plm, value, *, pooling, revision, **_):
    """Build the lexical encoder; options that mean nothing to it are refused."""
    from recbole_blair.text.lexical import LexicalEncoder

    given = [f"--{k}={v}" for k, v in (("pooling", pooling), ("revision", revision)) if v is not None]
    if given:
        raise InputError(f"{' '.join(given)} means nothing to --plm={TFIDF_SVD}; leave it out")
    return LexicalEncoder()


def _load_folder(plm, value, *, revision, cache_dir, **options):
    """Load a Hugging Face folder."""
    from recbole_blair.text.transformer import TransformerEncoder

    if revision is not None:
        raise InputError(f"--revision={revision} belongs to a hub id, but --plm={plm} is a folder; leave it out")
    return TransformerEncoder.load(
        value,
        name=encoder_name(plm),
        source={"source": value.name, "weights_sha256": weights_hash(value)},
        **options,
    )


def _load_hub(plm, value, *, revision, cache_dir, **options):
    """Download what is missing of a hub model, then load its snapshot folder."""
    from recbole_blair.text.transformer import TransformerEncoder, fetch_snapshot

    folder = fetch_snapshot(value, revision, cache_dir)
    source = {"source": value, "revision": folder.name, "weights_sha256": weights_hash(folder)}
    return TransformerEncoder.load(folder, name=encoder_name(plm), source=source, **options)


def _load_openai(plm, value, revision, pooling, max_length, api):
    """Open a model behind an API; what only a model of one's own has is refused."""
    from recbole_blair.text.openai_api import OpenAIEncoder

    given = [f"--{k}={v}" for k, v in (("pooling", pooling), ("revision", revision)) if v is not None]
    if given:
        raise InputError(f"{' '.join(given)} means nothing to --plm={plm}, whose server decides it; leave it out")
    return OpenAIEncoder(value, max_length=max_length, **api)


_LOADERS: dict[str, Callable] = {
    TFIDF_SVD: _load_lexical,
    "folder": _load_folder,
    "hub": _load_hub,
}
