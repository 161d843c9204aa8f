"""`recbole-blair new-model`: the two files of a recommender of one's own, and a test that passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_blair.registry.new_model import write_model

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

SUMMARY = "write a recommender of your own: two files that train as they are, and a passing test"
EXAMPLE = "recbole-blair new-model MyRec --dir=my_models"


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add("name", kind="name", help="name of the model and its class, as MyRec")
    add(
        "--dir", kind="path", help="folder for the files; empty: recbole_blair/plugins and props/model when run in a "
        "checkout of this project, else the current folder",
    )  # fmt: skip


def run(args: Namespace) -> int:
    """Write the files and print what to do with them."""
    for line in write_model(args.name, args.dir):
        print(line)
    return 0
