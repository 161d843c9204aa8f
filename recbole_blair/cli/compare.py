"""`recbole-blair compare`: one text against others, by the cosine of their vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_blair.cli.options import PRECISION_KIND, add_encoder_options, encoder_options
from recbole_blair.errors import InputError
from recbole_blair.schema import DEFAULT_PLM, TFIDF_SVD

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

SUMMARY = "compare a query with item texts by an encoder's cosine"
EXAMPLE = 'recbole-blair compare "a quiet keyboard for the office" "Membrane keyboard, silent keys" "Gaming mouse"'


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add("query", type=str, help="the text that is looked for")
    add("items", type=str, nargs="+", metavar="item", help="texts it is compared with")
    add("--plm", key="plm", default=DEFAULT_PLM, help="hub id or folder of the encoder")
    add_encoder_options(parser)
    add("--plm_query_prompt", help="before the query, or the name of a prompt; empty: as the model says")
    add("--device", key="device", default="auto", help="auto, cuda, cuda:N or cpu")
    add("--precision", kind=PRECISION_KIND, default="fp32", help="fp32 for a few texts")
    add("--cache_dir", kind="path", help="where hub downloads are kept; empty: the hub's cache")


def run(args: Namespace) -> int:
    """Print each item's cosine with the query, in the order given."""
    for item, score in zip(args.items, compare(args)):
        print(f"{score:8.4f}  {item}")
    return 0


def compare(args: Namespace) -> list[float]:
    """Return the cosines.

    Raises:
        InputError: an empty text, or an encoder that compares only texts it was fitted on.
    """
    # heavy
    import numpy as np

    from recbole_blair.text.encoders import check_for_encoding, load_encoder

    texts = [args.query, *args.items]
    empty = [number for number, text in enumerate(texts) if not text.strip()]
    if empty:
        place = "the query" if empty[0] == 0 else f"item {empty[0]}"
        raise InputError(f"{place} is empty; example: {EXAMPLE}")
    if args.plm == TFIDF_SVD:
        raise InputError(
            f"--plm={TFIDF_SVD} is fitted on a catalogue, not made for a few texts; give a hub id or folder"
        )
    options = encoder_options(args)
    check_for_encoding(args.plm, options)
    encoder = load_encoder(args.plm, **options)
    query = encoder.encode_queries([args.query], progress=False)[0]  # (D,)
    items = encoder.encode(args.items, progress=False, normalise=True)  # (n, D)
    return (items @ query / max(np.linalg.norm(query), 1e-12)).tolist()
