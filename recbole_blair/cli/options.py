"""What several commands share: the parser of their options, flags of keys (`--key=value`), and which Ray is used."""

from __future__ import annotations

import contextlib
import re
import sys
from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any, NoReturn

from recbole_blair.config.keys import KeyOption, Keys, read_flag
from recbole_blair.config.kinds import Kind, KindError, Option, shorten
from recbole_blair.errors import InputError, nearest, require
from recbole_blair.files.paths import props_dir

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from recbole_blair.parallel.ray_cluster import RayOptions

LONGEST_MESSAGE = 500  # characters: what was typed may be long
LONGEST_NOTE = 1000
ENCODER_OPTIONS = (
    "device", "precision", "revision", "pooling", "max_length", "prompt", "query_prompt", "normalise", "dimensions",
    "text_fields", "text_recipe", "cache_dir", "base_url", "concurrency", "send_dimensions",
)  # fmt: skip
FLAG_ACTIONS = ("store_true", "version")
RAY_ONLY = ("ray_address", "ray_cpus", "report_usage")
PRECISION_KIND = "str, auto|fp32|bf16|fp16"  # of encoders; training has no fp16
ENGINES = Kind.parse("str, local|ray")


class Parser(ArgumentParser):
    """argparse's parser, with options that are checked by kinds, and errors of one line."""

    def add(self, *names: str, kind: str = "str", key: str = "", file: str = "overall.yaml", **settings: Any) -> None:
        """Add an option or an argument.

        Args:
            *names: as argparse takes them.
            kind: what its values are, as in recbole_blair/config/kinds.py.
            key: in place of `kind`: the key of `file`, below props/, whose kind it has.
            **settings: as argparse takes them.
        """
        if settings.get("action") not in FLAG_ACTIONS:
            settings["type"] = KeyOption(key, file) if key else Option(kind)
        self.add_argument(*names, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; an unknown option is refused by the command's own parser, which knows the others.

        A value `--` is refused: before Python 3.12 argparse drops it and gives an empty list.
        """
        for word in args or ():
            if re.fullmatch(r"--\w+=--", word):
                self.error(f"argument {word[:-3]}: =--: it is no value")
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            InputError: always.
        """
        message = re.sub(r"^argument ([^:]+): =", r"\1=", message)
        unknown = re.match(r"unrecognized arguments: (--\S+?)(=|\s|$)", message)
        known = [name for action in self._actions for name in action.option_strings]
        hint = nearest(unknown[1], known) if unknown else ""
        raise InputError(f"{message[:LONGEST_MESSAGE]}{'.' if hint else ''}{hint}; see {self.prog} --help")


def parse_flags(argv: Sequence[str], keys: Keys, bare: Sequence[str], example: str) -> dict[str, Any]:
    """Read `--key=value`, `--key value` and bare `--flag`, which is True.

    Args:
        argv: the command line after the command.
        keys: whose values are read by their kinds; those of other flags are YAML.
        bare: flags that never take the next word as their value.
        example: a right command line, for messages.

    Raises:
        InputError: an argument that is none of these, or a key given twice with different values.
    """
    pairs: dict[str, Any] = {}
    words = iter(["--help" if word == "-h" else word for word in argv])
    waiting = next(words, None)
    while (word := waiting) is not None:
        waiting = next(words, None)
        if not word.startswith("--") or len(word) == 2:
            raise InputError(f"unexpected argument {shorten(word)}; keys are written --key=value, as in {example}")
        key, has_value, text = word[2:].partition("=")
        if not has_value and key not in bare and waiting is not None and not waiting.startswith("--"):
            has_value, text, waiting = "=", waiting, next(words, None)
        value = read_flag(key, text, keys) if has_value else True
        if key in pairs and repr(pairs[key]) != repr(value):  # by repr: nan differs from itself
            raise InputError(f"--{key} is given twice, as {shorten(pairs[key])} and {shorten(value)}")
        pairs[key] = value
    return pairs


def take_options(pairs: dict[str, Any], names: Sequence[str], bare: Sequence[str]) -> dict[str, Any]:
    """Take a command's own options out of the pairs; `config_files` becomes a list, a bare flag True or False.

    Raises:
        InputError: a value that the option cannot have.
    """
    options = {name: pairs.pop(name) for name in (*names, *bare) if name in pairs}
    for name in bare:
        if not isinstance(options.get(name, True), bool):
            raise InputError(f"--{name}={shorten(options[name])}: it takes no value, or True or False")
    files = options.get("config_files")
    if files is not None:
        texts = files.replace(",", " ").split() if isinstance(files, str) else files
        if not isinstance(texts, list) or not all(isinstance(file, str) for file in texts):
            raise InputError(f"--config_files={shorten(files)}: expected YAML files, as in a.yaml,b.yaml")
        options["config_files"] = texts
    return options


def refuse_unused(args: Namespace, names: Sequence[str], used: bool, owner: str) -> None:
    """Refuse options that were given where nothing reads them; those that were not are None.

    Raises:
        InputError: names the first, and what it belongs to.
    """
    given = [name for name in names if getattr(args, name) is not None]
    if given and not used:
        value = shorten(getattr(args, given[0])).strip("'")
        raise InputError(f"--{given[0]}={value} belongs to {owner}; leave it out")


@contextlib.contextmanager
def named_on_interrupt(file: Path, command: str) -> Iterator[None]:
    """Let the message of Ctrl-C name the command that goes on, once `file` is there for it to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*([f"go on with: recbole-blair {command}"] if file.is_file() else [])) from None


def print_notes(notes: Sequence[str], start: str = "") -> None:
    """Print one line about keys of RecBole's that nothing reads, if any; `start` goes before it."""
    if notes:
        text = "; ".join(notes)
        print(f"{start}note: keys of RecBole's: {text if len(text) <= LONGEST_NOTE else f'{text[:LONGEST_NOTE]}…'}")


def print_next(*commands: str) -> None:
    """Print one line with the commands that usually come next to the standard error."""
    print(f"next: {'  or  '.join(f'recbole-blair {command}' for command in commands)}", file=sys.stderr)


def keys_text(file: str) -> str:
    """Return a YAML file of defaults as --help prints it."""
    lines = (props_dir() / file).read_text(encoding="utf-8").splitlines()
    return "\n".join(f"  {line}".rstrip() for line in lines)


def add_encoder_options(parser: Parser, revision: str = "--revision") -> None:
    """Add what any command asks of an encoder; `revision` is the flag of its hub version."""
    add = parser.add
    add("--pooling", key="plm_pooling", help="cls, mean, lasttoken … or a+b; empty: as the model says")
    add("--max_length", key="plm_max_length", default=512, help="tokens kept of a text")
    add(revision, key="plm_revision", help="branch, tag or commit of a hub id")
    add("--plm_prompt", key="plm_prompt", help="before each item, or the name of a prompt; empty: as the model says")
    add("--plm_normalise", key="plm_normalise", help="False: without the Normalize module that a model ends in")
    add("--plm_dimensions", key="plm_dimensions", help="numbers kept per vector; empty: all")
    add("--plm_base_url", key="plm_base_url", help="server of openai:NAME; empty: OPENAI_BASE_URL, else its own")
    add("--plm_concurrency", key="plm_concurrency", help="requests to openai:NAME in flight; empty: 4")
    add("--plm_send_dimensions", key="plm_send_dimensions", help="False: the server takes no such parameter")


def encoder_options(args: Namespace) -> dict[str, Any]:
    """Return what a command line asks of an encoder, as `EncoderOptions` names it; what is not given is left out."""
    flags = {option: (f"plm_{option}", option) for option in ENCODER_OPTIONS}
    given = {option: getattr(args, own, getattr(args, other, None)) for option, (own, other) in flags.items()}
    return {option: value for option, value in given.items() if value is not None}


@contextlib.contextmanager
def naming_own_flags(parser: ArgumentParser, args: Namespace) -> Iterator[None]:
    """Let messages that name a key (`--plm_pooling`) name the command's flag of that key instead (`--pooling`)."""
    flags = {name[2:] for action in parser._actions for name in action.option_strings}
    keys = ((action.type.key, action.dest) for action in parser._actions if isinstance(action.type, KeyOption))
    own = {key: flag for key, flag in keys if key not in flags}
    if "retriever" in flags and args.retriever != "hybrid":  # of search: --plm is another encoder's
        own["plm"] = "retriever"
    try:
        yield
    except InputError as error:
        text = re.sub(r"--(\w+)", lambda found: f"--{own.get(found[1], found[1])}", str(error))
        error.args = (text, *error.args[1:])
        raise


def add_ray_options(parser: Parser) -> None:
    """Add --engine and what says which Ray."""
    add = parser.add
    add("--engine", default="local", kind="str, local|ray", help="ray: over a cluster, docs/scaling.md")
    add("--ray_address", help="auto or host:port of a cluster; empty: one is started here")
    add("--ray_cpus", key="ray_cpus", file="tune/tune.yaml", help="CPUs of the one started here; empty: all")
    add("--report_usage", action="store_true", help="let Ray send its usage statistics")


def ray_options(engine: str, given: Mapping[str, Any], more: Sequence[str] = ()) -> RayOptions | None:
    """Return the RayOptions of a command line, or None for engine=local.

    Args:
        engine: local or ray.
        given: the command's options.
        more: options of the command that only engine=ray has.

    Raises:
        InputError: an option that only engine=ray has, without it.
    """
    try:
        engine = ENGINES.check(engine)
    except KindError as error:
        raise InputError(f"--engine={shorten(engine)} {error}") from None
    if engine == "ray":
        require("--engine=ray", "ray")
        from recbole_blair.parallel.ray_cluster import RayOptions  # only the few commands that ask for it need it

        return RayOptions(given.get("ray_address"), given.get("ray_cpus"), bool(given.get("report_usage")))
    for key in (*RAY_ONLY, *more):
        if given.get(key):
            raise InputError(f"--{key}={given[key]} belongs to --engine=ray; add that, or leave it out")
    return None
