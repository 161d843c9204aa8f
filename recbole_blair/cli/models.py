"""`recbole-blair models`: every recommender that can be named."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from recbole_blair.cli.help_layout import columns, wrap
from recbole_blair.errors import InputError
from recbole_blair.registry import ModelInfo, list_models, unsupported_models, use_plugins

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

SUMMARY = "list the recommenders with their source and one line"
EXAMPLE = "recbole-blair models --plugin=myrec.py"


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add("--plugin", help="a Python file of a model of your own; several by commas")
    add("--source", help="only these: recbole_blair, plugin, package or RecBole")


def run(args: Namespace) -> int:
    """Print one line per model; a model that cannot be imported is marked broken and says why below the list.

    Below RecBole's models stand those of RecBole that do not run here, each with its reason.
    """
    use_plugins(args.plugin)
    listed = [i for i in list_models().items() if not args.source or comes_from(i[1], args.source)]
    if not listed:
        raise InputError(f"no model comes from {args.source!r}; sources: recbole_blair, plugin, package, RecBole")
    listed.sort(key=lambda item: item[1].source == "RecBole")  # RecBole's own, which are many, after the others
    broken = []
    names = max(14, *(len(name) for name, _ in listed))
    sources = max(14, *(len(info.source) for _, info in listed))
    room = max(20, columns() - names - sources - 2)
    for name, info in listed:
        try:
            text = textwrap.shorten(first_sentence(info), room, placeholder=" …") or "–"
        except InputError as error:
            text = "BROKEN, see below"
            broken.append(f"{name}: {' '.join(str(error).split())}")
        print(f"{name:{names}} {info.source:{sources}} {text}")
    if broken:
        print("\nbroken; the other models work:")
        print("\n".join(f"  {line}" for line in broken))
    if any(info.from_recbole for _, info in listed):
        print("\nRecBole's other models do not run here; they need")
        for needs in dict.fromkeys(unsupported_models().values()):
            models = ", ".join(name for name, why in unsupported_models().items() if why == needs)
            print("\n    ".join(wrap(f"  {needs}: {models}", columns() - 4)))
    return 0


def comes_from(info: ModelInfo, source: str) -> bool:
    """Tell whether a model's source begins with the words of `source`: `plugin` means plugin files, too."""
    return f"{info.source} ".lower().startswith(f"{source.strip()} ".lower())


def first_sentence(info: ModelInfo) -> str:
    """Return the first sentence of a model's docstring."""
    paragraph = re.split(r"\n\s*\n", (info.load_class().__doc__ or "").strip().removeprefix("r\n").strip())[0]
    return re.split(r"(?<=[.:]) ", " ".join(paragraph.split()))[0]
