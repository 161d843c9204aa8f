"""`recbole-blair train`, the same as `python run_recbole.py`: RecBole's `--key=value` for every key."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recbole_blair.cli import tune
from recbole_blair.cli.help_layout import fit
from recbole_blair.cli.options import keys_text, named_on_interrupt, parse_flags, print_next, print_notes, take_options
from recbole_blair.config import Kind, load_yaml, read_layers, resolve_config
from recbole_blair.config.keys import props_keys
from recbole_blair.config.kinds import shorten
from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_folder
from recbole_blair.parallel.launch import check_processes, is_first_process, launch, started_by_launcher
from recbole_blair.registry import ModelInfo, find_model, use_plugins
from recbole_blair.tracking.trackers import check_trackers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Inside the functions: what loads torch and RecBole (quick_start, runs), which --help does without.

SUMMARY = "train and evaluate a recommender; makes atomic files and features first"
EXAMPLE = "recbole-blair train --model=UniSRecBlair --dataset=Games --learning_rate=1e-3"
PASS_THROUGH = True  # every key of the YAML files is a flag; argparse cannot list them
FLAGS = ("dry_run", "print_config", "help")
BARE = (*FLAGS, "fresh")  # never take the next word as their value

HELP = """usage: recbole-blair train --model=MODEL --dataset=DATASET [--key=value ...]

{summary}.

  --model=NAME          one of `recbole-blair models`
  --dataset=NAME        an official category (Video_Games), a short name (Games), sample, or a folder in data_path
  --plugin=FILE.py      a recommender of your own, with FILE's YAML beside it (docs/plugins.md); several by commas
  --config_files=A,B    YAML files of keys, perhaps with model and dataset; the command line outranks them
  --resume=FOLDER       go on with a run that was interrupted (the same command does it too)
  --fresh               start a new run, even where an interrupted one of the same configuration could go on
  --log=A,B             log the run to trackers: tensorboard, wandb, mlflow (docs/tracking.md)
  --dry_run             say what would be done, with disk, memory and time, and stop
  --print_config        print every resolved key and stop
  --nproc=N             N processes on this machine train together, one a GPU; torchrun works too
  --tune                try many configurations: see `recbole-blair tune --help`
  --help                this; with --model=NAME its keys too

example: {example}

keys with their defaults:
{keys}"""


def run(argv: list[str]) -> int:
    """Parse, then print the configuration, the plan, or train and print the table."""
    if "--tune" in argv:
        return tune.run(argv)
    options, overrides = parse(argv)
    files = options.get("config_files") or []
    use_plugins(plugin_paths(overrides), files)
    if options.get("help"):
        print(help_text(options.get("model")))
        return 0
    if overrides.get("resume") is not None:
        from recbole_blair.quick_start import resumed_keys

        found = resumed_keys(options.get("model"), options.get("dataset"), files, overrides)
        options["model"], options["dataset"], files, overrides = found
    else:
        for name in ("model", "dataset"):
            options[name] = options.get(name) or named_in(files, name)
            if not options[name]:
                raise InputError(f"--{name}=… is missing; example: {EXAMPLE}")
    if options.get("print_config"):
        return print_config(options["model"], options["dataset"], files, overrides)
    if not started_by_launcher():
        print_notes(read_layers(find_model(options["model"]), files, overrides)[1])
    if options.get("dry_run"):
        from recbole_blair.runs.dry_run import print_plan

        return print_plan(options["model"], options["dataset"], files, overrides)
    if started_by_launcher():
        return train(options["model"], options["dataset"], files, overrides)
    config = resolve_config(find_model(options["model"]), options["dataset"], files, overrides)
    check_trackers(config["log"])
    if config["output_dir"]:
        check_output_folder(config["output_dir"])
    if config["nproc"] != 1:
        check_processes(config["nproc"], config["device"])
    from recbole_blair.quick_start import default_root
    from recbole_blair.train.interrupted import choose_root

    folder = str(choose_root(config, default_root(config)))
    with named_on_interrupt(Path(folder) / "config.yaml", f"train {shlex.quote(f'--resume={folder}')}"):
        if config["nproc"] > 1:
            own = [] if config["output_dir"] else [f"--output_dir={folder}"]
            argv = [word for word in argv if word.partition("=")[0] != "--fresh"]
            return launch(config["nproc"], ["train", *argv, *own])
        return train(options["model"], options["dataset"], files, {**overrides, "output_dir": folder, "fresh": False})


def train(model: str, dataset: str, files: Sequence[str], overrides: Mapping[str, Any]) -> int:
    """Train and print the table."""
    from recbole_blair.quick_start import run_many
    from recbole_blair.train.display import print_results

    results = run_many(model, dataset, files, **overrides)
    if is_first_process():
        print_results(results)
        run = Path(next(one["output_dir"] for one in results if one["model"] == model))
        root = shlex.quote(str(run if len(results) == 1 else run.parent))
        users = "--users=<ids, or a JSONL file of histories>"
        print_next(f"report {root}", f"recommend {shlex.quote(f'--checkpoint={run}')} {users}")
    return 0


def parse(argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a command line into options of this command and overrides of keys.

    Raises:
        InputError: an argument that is none of these, or a key given twice with different values.
    """
    keys = props_keys("overall.yaml")
    names = {"model": Kind("name"), "dataset": Kind("name")}
    pairs = parse_flags(argv, replace(keys, kinds={**keys.kinds, **names}), BARE, EXAMPLE)
    options = take_options(pairs, ("model", "dataset", "config_files"), FLAGS)
    for name in names:
        if name in options and not isinstance(options[name], str):
            raise InputError(f"--{name} needs a name, as in {EXAMPLE}")
    return options, pairs


def named_in(files: Sequence[str], name: str) -> str | None:
    """The model or the dataset that the last of the YAML files names, such as a sweep's best.yaml; or None."""
    named = [(file, load_yaml(file).get(name)) for file in files]
    file, value = next((pair for pair in reversed(named) if pair[1]), ("", None))
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name}={shorten(value)} in {file} is a {type(value).__name__}; expected a name")
    return value


def plugin_paths(overrides: Mapping[str, Any]) -> str | list[str] | None:
    """The files of --plugin.

    Raises:
        InputError: the flag without a file.
    """
    given = overrides.get("plugin")
    if given is not None and not isinstance(given, str | list):
        raise InputError("--plugin needs a file, as in --plugin=myrec.py")
    return given


def help_text(model: str | None) -> str:
    """The usage with the defaults, as the YAML files explain them."""
    keys = keys_text("overall.yaml")
    if model:
        own = own_keys(find_model(model))
        keys += "\n" + "\n".join(f"  {line}".rstrip() for line in ("", f"# {model}", *own.splitlines()))
    return fit(HELP.format(summary=SUMMARY, example=EXAMPLE, keys=keys))


def own_keys(info: ModelInfo) -> str:
    """The text of a model's YAML; a broken model's own error where it has none."""
    info.load_keys()
    assert info.yaml_path is not None  # load_keys refuses a model without
    return info.yaml_path.read_text(encoding="utf-8")


def print_config(model: str, dataset: str, files: Sequence[str], overrides: Mapping[str, Any]) -> int:
    """Print the resolved keys as YAML that --config_files reads back."""
    info = find_model(model)
    config = resolve_config(info, dataset, files, overrides)
    print(yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True), end="")
    print_notes(read_layers(info, files, overrides)[1], "# ")
    return 0
