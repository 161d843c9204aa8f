"""The prompt that stands before a text: asked for, declared by the model, or known from its authors' documentation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import yaml

from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir
from recbole_blair.text.layout import DOCUMENT, PROMPT_NAMES, Layout
from recbole_blair.text.options import EncoderOptions

_NAME = re.compile(r"[\w.-]+")  # of a prompt; a prompt's text ends in a space, a colon or a line break
KEYS = (*PROMPT_NAMES, "widths")


@lru_cache(maxsize=1)
def known_encoders() -> dict[str, dict[str, Any]]:
    """Return props/encoders/instructions.yaml: hub id -> prompts for documents and queries, widths.

    Raises:
        InputError: the file names a key that is none.
    """
    path = props_dir() / "encoders/instructions.yaml"
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, entry in table.items():
        unknown = sorted(set(entry) - set(KEYS))
        if unknown:
            raise InputError(f"{path}: {name} has the key {unknown[0]!r}; known: {', '.join(KEYS)}")
    return table


def find_prompt(layout: Layout, task: str, options: EncoderOptions, source: str | None) -> str:
    """Return the prompt of one side; "" is none.

    Args:
        layout: of the model's folder.
        task: `document` or `query`.
        options: `prompt` and `query_prompt` as asked for, texts or names; "" asks for none.
        source: the model's hub id, if it has one.

    Raises:
        InputError: a name that the model does not declare.
    """
    asked = options.prompt if task == DOCUMENT else options.query_prompt
    known = known_encoders().get(source or "", {})
    prompts = layout.prompts or {name: text for name, text in known.items() if name != "widths"}
    if asked is None:
        names = [name for name in (*PROMPT_NAMES[task], layout.default_prompt) if name in prompts]
        return prompts[names[0]] if names else ""
    return named_prompt(asked, prompts, "plm_prompt" if task == DOCUMENT else "plm_query_prompt")


def named_prompt(asked: str, prompts: Mapping[str, str], key: str) -> str:
    """Return the text of a prompt given as text or by name.

    Raises:
        InputError: a single word that names no prompt.
    """
    if asked in prompts:
        return prompts[asked]
    if _NAME.fullmatch(asked):
        here = f"it has {', '.join(prompts)}" if prompts else "it declares none"
        raise InputError(
            f"--{key}={asked} is no prompt of the model's own ({here}); give one of those, or a text that ends in a "
            f"space or a colon.{nearest(asked, prompts)}"
        )
    return asked.replace("\\n", "\n")  # a shell passes a line break as two characters


def known_widths(source: str | None) -> tuple[int, ...]:
    """Return the widths that a hub model is documented to be truncated to; empty: not known."""
    return tuple(known_encoders().get(source or "", {}).get("widths", ()))
