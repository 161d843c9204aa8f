"""What is known of embedding models behind an OpenAI-compatible API: width, length, price, name in files."""

from __future__ import annotations

from typing import NamedTuple

import yaml

from recbole_blair.errors import InputError
from recbole_blair.files.paths import props_dir


class ApiModel(NamedTuple):
    """What is known of a model: see props/encoders/openai.yaml. None: unknown."""

    width: int | None = None
    shortens: bool | None = None
    max_tokens: int | None = None
    tokeniser: str | None = None
    usd_per_million_tokens: float | None = None


def find_api_model(name: str) -> ApiModel:
    """Return what props/encoders/openai.yaml says of a model; all None where it says nothing.

    Raises:
        InputError: the file names a key that is none.
    """
    path = props_dir() / "encoders/openai.yaml"
    entry = yaml.safe_load(path.read_text(encoding="utf-8")).get(name, {})
    unknown = sorted(set(entry) - set(ApiModel._fields))
    if unknown:
        raise InputError(f"{path}: {name} has the key {unknown[0]!r}; known: {', '.join(ApiModel._fields)}")
    return ApiModel(**entry)


def api_encoder_name(model: str, dimensions: int | None = None) -> str:
    """Return `openai-<model>-<dimensions>`; a slash in the model's name becomes `--`.

    Raises:
        InputError: no name, or the width of a model that is not known.
    """
    return f"openai-{model.replace('/', '--')}-{width_of(model, dimensions)}"


def width_of(model: str, dimensions: int | None) -> int:
    """Return the width asked for, checked against what is known of the model."""
    if not model or not model.rsplit("/", 1)[-1] or any(c.isspace() for c in model):
        raise InputError("--plm=openai:NAME needs a model's name, like openai:text-embedding-3-large")
    known = find_api_model(model)
    if dimensions is None:
        if known.width is None:
            raise InputError(
                f"--plm=openai:{model}: its width is not known; give --plm_dimensions=<numbers per vector>, with "
                "--plm_send_dimensions=False where the server does not take that parameter"
            )
        return known.width
    too_wide = known.width is not None and dimensions > known.width
    if dimensions < 1 or too_wide or (known.shortens is False and dimensions != known.width):
        legal = f"{known.width}" if known.shortens is False else f"1 to {known.width or 'the model’s own'}"
        raise InputError(f"--plm_dimensions={dimensions} is not a width of {model}; it has {legal}")
    return dimensions
