"""`recbole-blair compare`: one text against others, by the cosine of their vectors."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from recbole_blair.errors import InputError
from recbole_blair.schema import DEFAULT_PLM, TFIDF_SVD

SUMMARY = "compare a query with item texts by an encoder's cosine"
EXAMPLE = 'recbole-blair compare "a quiet keyboard for the office" "Membrane keyboard, silent keys" "Gaming mouse"'


def configure(parser: ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("query", help="the text that is looked for")
    parser.add_argument("items", nargs="+", metavar="item", help="texts it is compared with")
    parser.add_argument("--plm", default=DEFAULT_PLM, help="hub id or folder of the encoder")
    parser.add_argument("--revision", default=None, help="branch, tag or commit of a hub id")
    parser.add_argument("--pooling", default=None, choices=("cls", "mean"), help="empty: as the model says, else cls")
    parser.add_argument("--max_length", type=int, default=512, help="tokens kept of a text")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or cpu")
    parser.add_argument("--precision", default="fp32", choices=("auto", "fp32", "bf16"), help="fp32 for a few texts")
    parser.add_argument("--cache_dir", default=None, help="where hub downloads are kept; empty: the hub's cache")


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
    from recbole_blair.text.encoders import load_encoder  # heavy: loads NumPy

    texts = [args.query, *args.items]
    empty = [number for number, text in enumerate(texts) if not text.strip()]
    if empty:
        place = "the query" if empty[0] == 0 else f"item {empty[0]}"
        raise InputError(f"{place} is empty; example: {EXAMPLE}")
    if args.plm == TFIDF_SVD:
        raise InputError(
            f"--plm={TFIDF_SVD} is fitted on a catalogue, not made for a few texts; give a hub id or folder"
        )
    encoder = load_encoder(
        args.plm,
        device=args.device,
        precision=args.precision,
        revision=args.revision,
        pooling=args.pooling,
        max_length=args.max_length,
        cache_dir=args.cache_dir,
    )
    vectors = encoder.encode(texts, progress=False, normalise=True)
    return (vectors[1:] @ vectors[0]).tolist()
