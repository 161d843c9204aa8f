"""`recbole-blair export-encoder`: the text encoder that a run trained, as a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_blair.files.output import check_output_folder

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

# Inside the functions: what loads torch and RecBole (runs).

SUMMARY = "write the text encoder that a run trained, for transformers, sentence-transformers and --plm"
EXAMPLE = "recbole-blair export-encoder --checkpoint=runs/games --output_dir=games-encoder"


def configure(parser: Parser) -> None:
    """Add the options."""
    parser.add("--checkpoint", kind="path", required=True, help="folder of a run with train_encoder")
    parser.add("--output_dir", kind="path", required=True, help="folder for the encoder")


def run(args: Namespace) -> int:
    """Copy the encoder and print where it is."""
    from recbole_blair.runs.trained_encoder import copy_encoder

    check_output_folder(args.output_dir)
    print(copy_encoder(args.checkpoint, args.output_dir))
    return 0
