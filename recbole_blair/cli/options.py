"""What several commands share: flags of keys (`--key=value`), and the options that say which Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_blair.config.keys import KeyOption, Keys, read_flag
from recbole_blair.config.kinds import Kind, KindError, Option, shorten
from recbole_blair.errors import InputError
from recbole_blair.files.paths import props_dir

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from recbole_blair.parallel.ray_cluster import RayOptions

RAY_ONLY = ("ray_address", "ray_cpus", "report_usage")
ENGINES = Kind.parse("str, local|ray")


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
        if pairs.get(key, value) != value:
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


def keys_text(file: str) -> str:
    """Return a YAML file of defaults as --help prints it."""
    lines = (props_dir() / file).read_text(encoding="utf-8").splitlines()
    return "\n".join(f"  {line}".rstrip() for line in lines)


def add_ray_options(parser: argparse.ArgumentParser) -> None:
    """Add --engine and what says which Ray."""
    add = parser.add_argument
    add("--engine", default="local", type=Option("str, local|ray"), help="ray: over a cluster, docs/scaling.md")
    add("--ray_address", help="auto or host:port of a cluster; empty: one is started here")
    add("--ray_cpus", type=KeyOption("ray_cpus", "tune/tune.yaml"), help="CPUs of the one started here; empty: all")
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
        from recbole_blair.parallel.ray_cluster import RayOptions  # only the few commands that ask for it need it

        return RayOptions(given.get("ray_address"), given.get("ray_cpus"), bool(given.get("report_usage")))
    for key in (*RAY_ONLY, *more):
        if given.get(key):
            raise InputError(f"--{key}={given[key]} belongs to --engine=ray; add that, or leave it out")
    return None
