"""`recbole-blair example`: the files of the quick start, for a folder of the user's own."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from recbole_blair.cli.options import print_next
from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_folder
from recbole_blair.files.paths import examples_dir
from recbole_blair.files.write import write_bytes

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

SUMMARY = "write the quick start's files: a small made-up shop (log, items, new items, a visitor) and a notebook"
EXAMPLE = "recbole-blair example --output_dir=shop"
SUFFIXES = (".csv", ".jsonl", ".ipynb")
COLUMNS = (
    "--columns=user_id=customer,item_id=sku,timestamp=time",
    "--item_columns=item_id=sku,title=name,categories=department,price=price,description=text",
    "--timestamp_unit=iso",
)


def configure(parser: Parser) -> None:
    """Add the options."""
    parser.add("--output_dir", kind="path", default=".", help="folder for the files; made when missing")


def run(args: Namespace) -> int:
    """Write the files and print their paths; a file with other content is left alone and refused."""
    files = {path.name: path.read_bytes() for path in sorted(examples_dir().iterdir()) if path.suffix in SUFFIXES}
    folder = check_output_folder(args.output_dir)
    for name, data in files.items():
        path = folder / name
        if path.is_symlink() or (path.exists() and (not path.is_file() or path.read_bytes() != data)):
            raise InputError(f"{path} is there already, with other content; choose another --output_dir, or move it")
    for name, data in files.items():
        write_bytes(folder / name, data)
        print(folder / name)
    inputs = [f"--interactions={folder / 'log.csv'}", f"--items={folder / 'items.csv'}"]
    print_next(shlex.join(["prepare", "--dataset=shop", "--source=csv", *inputs, *COLUMNS]))
    return 0
