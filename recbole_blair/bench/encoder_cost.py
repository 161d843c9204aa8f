"""What an encoder costs: its parameters, its width, and the time it takes for a title on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from recbole_blair.schema import ITEM_SUFFIX, TFIDF_SVD
from recbole_blair.search.datasets import find_files, load_pool
from recbole_blair.steps.commands import Result, keep_result
from recbole_blair.steps.step import Places
from recbole_blair.text.encoders import Encoder, load_encoder, resolve_plm
from recbole_blair.text.features import build_path, read_item_texts
from recbole_blair.text.transformer import TransformerEncoder

TEXTS = 256  # of the data, that are timed: a few seconds of a large encoder on a CPU
WARM_UP = 16


def measure_encoder(plm: str, data: Path, places: Places, folder: Path) -> dict[str, Any]:
    """Return `parameters`, `width` and `ms_per_text`, measured once per encoder; None for what cannot be known.

    An API's models are not timed: their answers cost money and say more about the network.

    Args:
        plm: the encoder.
        data: folder of a build or of a query set, whose item texts are encoded.
        places: where it runs.
        folder: keeps the result.
    """
    return keep_result(measure)({"plm": plm, "data": str(data)}, places, folder)


def measure(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Load the encoder and time it; see `measure_encoder`."""
    unknown = {"parameters": None, "width": None, "ms_per_text": None}
    if resolve_plm(keys["plm"])[0] not in (TFIDF_SVD, "folder", "hub"):
        return unknown
    texts = sample_texts(Path(keys["data"]))
    encoder = load_encoder(keys["plm"], device=(places.train or {}).get("device", "auto"))
    if isinstance(encoder, TransformerEncoder):
        encoder.encode(texts[:WARM_UP], progress=False)
    started = time.perf_counter()
    vectors = encoder.encode(texts, progress=False)
    milliseconds = 1000 * (time.perf_counter() - started) / len(texts)
    parameters = count_parameters(encoder)
    return {"parameters": parameters, "width": int(vectors.shape[1]), "ms_per_text": round(milliseconds, 4)}


def sample_texts(folder: Path) -> list[str]:
    """Return up to TEXTS texts, evenly spread: the titles of a build, or the texts of a query set's pool."""
    if build_path(folder, ITEM_SUFFIX).is_file():
        _, texts = read_item_texts(folder, "title")
    else:
        texts = load_pool(find_files(str(folder), pool_text="title"), "title")[0].texts
    return texts[:: max(1, len(texts) // TEXTS)][:TEXTS]


def count_parameters(encoder: Encoder) -> int | None:
    """Return the number of weights of a transformer; None for what has none."""
    if not isinstance(encoder, TransformerEncoder):
        return None
    return encoder.replicas[0][1].n_parameters
