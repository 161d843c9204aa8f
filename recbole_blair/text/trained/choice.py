"""What the key `train_encoder` asks for: none, the last layers, low-rank updates, or everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError, require
from recbole_blair.text.encoders import resolve_plm

if TYPE_CHECKING:
    from collections.abc import Mapping

FROZEN = "none"
FIXED_TRANSFORMS = ("none", "rms")  # one number for all items, which need not be fitted again when the encoder changes
_NO_WEIGHTS = {"vectors": "ready vectors", "openai": "a model behind an API", "tfidf-svd": "no neural encoder"}


@dataclass(frozen=True)
class EncoderTraining:
    """Which weights of an encoder are trained.

    Args:
        kind: `last`, `lora` or `full`.
        amount: layers of `last`, rank of `lora`; 0 of `full`.
    """

    kind: str
    amount: int = 0

    @classmethod
    def parse(cls, text: str) -> EncoderTraining | None:
        """Read a value that the key's kind has checked; None: the encoder stays frozen."""
        kind, _, amount = text.partition(":")
        return None if kind == FROZEN else cls(kind, int(amount or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount}" if self.amount else self.kind


def chosen_training(config: Mapping[str, Any], model_trains: bool, transform: str) -> EncoderTraining | None:
    """Return what the keys ask for, or None for a frozen encoder.

    Args:
        config: a resolved configuration.
        model_trains: whether the model's class sets `trains_encoder`.
        transform: of the features.

    Raises:
        InputError: the model, the encoder or another key does not go with it; one line that names both.
    """
    training = EncoderTraining.parse(config["train_encoder"])
    if training is None:
        return None
    asked, plm = f"train_encoder={training}", config["plm"]
    if not model_trains:
        raise InputError(
            f"{asked} is of UniSRecBlair, SASRecText and HSTUBlair; {config['model']} does not train an encoder"
        )
    kind = resolve_plm(plm)[0]
    if kind in _NO_WEIGHTS:
        raise InputError(
            f"{asked} trains the weights of a text encoder, but plm={plm} is {_NO_WEIGHTS[kind]}; give a hub id or a "
            "folder, or train_encoder=none"
        )
    if transform not in FIXED_TRANSFORMS:
        raise InputError(
            f"{asked} changes the features that feature_transform={transform} is fitted on; set feature_transform to "
            f"{' or '.join(FIXED_TRANSFORMS)}"
        )
    needed = {"softmax": "sampled", "negatives_of": "step", "compile": False}
    if config.get("train_stage") == "pretrain":
        del needed["softmax"]  # its candidates are the batch's own targets
    for key, value in needed.items():
        if key in config and config[key] != value:
            raise InputError(f"{asked} with {key}={config[key]} {_TOO_MUCH[key]}; set {key}: {value}")
    if training.kind == "lora":
        require(asked, "peft")
    return training


_TOO_MUCH = {
    "softmax": "would encode the text of every item in every step",
    "negatives_of": "would encode other negatives for every position, nearly all items in every step",
    "compile": "does not work: each step encodes another number of texts",
}
