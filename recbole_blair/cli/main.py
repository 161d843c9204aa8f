"""The console script `recbole-blair`: finds the commands of this folder; InputError becomes exit 2."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import shlex
import sys
from typing import TYPE_CHECKING

from recbole_blair import cli
from recbole_blair.cli.help_layout import HelpLayout, layout_examples, short_usage
from recbole_blair.cli.options import Parser, naming_own_flags
from recbole_blair.errors import run_guarded
from recbole_blair.files.read import check_folder_flag
from recbole_blair.parallel.environment import set_environment
from recbole_blair.parallel.launch import end_together, is_first_process
from recbole_blair.schema import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType


def command_names() -> list[str]:
    """Return the commands: the files of this folder, `_` written as `-`."""
    names = (module.name for module in pkgutil.iter_modules(cli.__path__))
    return sorted(name.replace("_", "-") for name in names if name not in ("main", "options", "help_layout"))


def load_command(name: str) -> ModuleType:
    """Import the file of one command."""
    return importlib.import_module(f"recbole_blair.cli.{name.replace('-', '_')}")


def build_parser(names: Iterable[str]) -> Parser:
    """Build the argument parser with one sub-parser for each of `names`."""
    parser = Parser(
        prog="recbole-blair",
        description="Text-based sequential recommendation on RecBole, around BLaIR.",
        formatter_class=HelpLayout,
    )
    parser.add_argument("--version", action="version", version=f"recbole_blair {VERSION}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name in names:
        module = load_command(name)
        sub = subparsers.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY,
            epilog=layout_examples(module.EXAMPLE),
            formatter_class=HelpLayout,
            allow_abbrev=False,
        )
        if not getattr(module, "PASS_THROUGH", False):
            module.configure(sub)
            sub.usage = short_usage(sub)
    return parser


def find_subparser(parser: Parser, command: str) -> argparse.ArgumentParser:
    """Return the parser of one command."""
    actions = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return next(actions).choices[command]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 2 wrong use or input (one line on stderr), 1 failure. Ctrl-C gives 130.
    """
    set_environment()
    argv = sys.argv[1:] if argv is None else list(argv)
    names = command_names()
    if argv and argv[0] in names and getattr(load_command(argv[0]), "PASS_THROUGH", False):
        return guard(lambda: load_command(argv[0]).run(argv[1:]), argv)
    wanted = [argv[0]] if argv and argv[0] in names else names  # import only what is run

    def run() -> int:
        parser = build_parser(wanted)
        args = parser.parse_args(argv)
        with naming_own_flags(find_subparser(parser, args.command), args):
            for key in ("data_path", "raw_dir"):
                if getattr(args, key, None) is not None:
                    check_folder_flag(key, getattr(args, key))
            return load_command(args.command).run(args)

    return guard(run, argv)


def guard(run: Callable[[], int | None], argv: Sequence[str] = ()) -> int:
    """Call `run()`, the work of `argv`; print what a user can mend, and Ctrl-C, as one line; return the exit status."""

    def work() -> int:
        status = run() or 0
        end_together(status)
        return status

    return run_guarded(work, is_first_process, shlex.join(["recbole-blair", *argv]))
