"""The texts of a data set, encoded once per encoder: builds of several protocols share the vectors of equal texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_blair.config import resolve_config
from recbole_blair.data.build import encoder_options
from recbole_blair.registry import find_model
from recbole_blair.steps.step import Places
from recbole_blair.text.encode import encode_build, find_feature_name
from recbole_blair.text.features import features_are_whole


def encode_texts(model: str, keys: dict[str, Any], build: Path, others: list[Path], places: Places) -> None:
    """Encode a build's item texts, unless its features are there.

    The precision is the encoder's own choice, whatever the model trains in: all builds then have the same vectors.

    Args:
        model: a name of `recbole-blair models`.
        keys: of its training, `dataset` and `plm` among them.
        build: folder of the build.
        others: builds of the same data that may have the vectors already.
        places: where commands run.
    """
    keys = dict(keys)
    dataset, plm = keys.pop("dataset"), keys["plm"]
    options = encoder_options(resolve_config(find_model(model), dataset, (), keys))
    donors = [
        other
        for other in others
        if other != build and features_are_whole(other, find_feature_name(other, plm, **options))
    ]
    device = (places.train or {}).get("device", "auto")
    donor = donors[0] if donors else None
    encode_build(build, plm, device=device, progress=places.progress, donor=donor, **options)
