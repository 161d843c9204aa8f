"""The console script `recbole-blair`: finds the commands of this folder; InputError becomes exit 2."""

import argparse
import errno
import importlib.util
import os
import pkgutil
import sys
import time

from recbole_blair import cli
from recbole_blair.errors import InputError
from recbole_blair.parallel.environment import set_environment
from recbole_blair.parallel.launch import end_together, is_first_process
from recbole_blair.schema import VERSION


def command_names():
    """Return the commands: the files of this folder, `_` written as `-`."""
    found = (m.name for m in pkgutil.iter_modules(cli.__path__))
    return sorted(name.replace("_", "-") for name in found if name not in ("main", "options"))


def load_command(name):
    """Import the file of one command."""
    return importlib.import_module(f"recbole_blair.cli.{name.replace('-', '_')}")


def build_parser(names):
    """Build the argument parser with one sub-parser for each of `names`."""
    parser = argparse.ArgumentParser(
        prog="recbole-blair", description="Text-based sequential recommendation on RecBole, around BLaIR."
    )
    parser.add_argument("--version", action="version", version=f"recbole_blair {VERSION}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name in names:
        module = load_command(name)
        sub = subparsers.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY,
            epilog=f"example: {module.EXAMPLE}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )
        if not getattr(module, "PASS_THROUGH", False):
            module.configure(sub)
    return parser


def main(argv=None):
    """Run one command.

    Returns:
        int: 0 done, 2 wrong use or input (one line on stderr), 1 failure. Ctrl-C gives 130.
    """
    set_environment()
    argv = sys.argv[1:] if argv is None else list(argv)
    names = command_names()
    if argv and argv[0] in names and getattr(load_command(argv[0]), "PASS_THROUGH", False):
        return guard(lambda: load_command(argv[0]).run(argv[1:]))
    wanted = [argv[0]] if argv and argv[0] in names else names  # import only what is run
    args = build_parser(wanted).parse_args(argv)
    return guard(lambda: load_command(args.command).run(args))


def guard(run):
    """Call `run()`; print what a user can mend, and Ctrl-C, as one line and return the exit status."""
    try:
        status = run() or 0
        end_together()
        return status
    except InputError as error:
        if is_first_process():
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        else:  # the first meets the same and must not be ended before it says so; `launch` speaks for one alone
            time.sleep(3)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if not package or importlib.util.find_spec(package):  # a module of a package that is there: a fault, not a lack
            raise
        print(
            f"error: {package} is not installed for {sys.executable}; use the environment that `make install` makes "
            "(. .venv/bin/activate), or install into this one (docs/install.md)",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"error: cannot write{where}: {os.strerror(error.errno)}; free some space or choose another "
            "folder, then run the same command again: it goes on where it was",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
