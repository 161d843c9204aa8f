"""`recbole-blair tune`, the same as `python run_recbole.py --tune`: a sweep over a model's keys with Ray Tune."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from recbole_blair.cli.help_layout import fit
from recbole_blair.cli.options import keys_text, named_on_interrupt, parse_flags, print_next, print_notes, take_options
from recbole_blair.config import Kind
from recbole_blair.config.keys import props_keys
from recbole_blair.errors import InputError, nearest, require
from recbole_blair.files.output import check_output_folder
from recbole_blair.tune.settings import DEFAULTS

# Inside the functions: what loads torch and RecBole (recbole_blair.tune.run), which --help does without.

SUMMARY = "try many configurations of a recommender, stop the bad ones, evaluate the best"
EXAMPLE = "recbole-blair tune --model=UniSRecBlair --dataset=Games --num_samples=32 --gpus_per_trial=0.5"
PASS_THROUGH = True  # every option of props/tune/tune.yaml and every key of the model is a flag
FLAGS = ("dry_run", "help", "tune", "print_config", "fresh")

HELP = """usage: recbole-blair tune --model=MODEL --dataset=DATASET [--option=value ...] [--key=value ...]

{summary}.

  --model=NAME          one of `recbole-blair models`
  --dataset=NAME        an official category (Video_Games), a short name (Games), sample, or a folder in data_path
  --output_dir=FOLDER   the sweep's folder; empty: that of an interrupted sweep of the same configuration, else
                        <checkpoint_dir>/<time>-tune-<model>-<dataset>
  --resume=FOLDER       go on with a sweep that was interrupted (the same command does it too)
  --fresh               start a new sweep, even where an interrupted one of the same configuration could go on
  --config_files=A,B    YAML files of keys; the space outranks them
  --key=value           a key of the model or of `train`, the same for every trial; it leaves the space
  --log=A,B             log sweep and trials to trackers: tensorboard, wandb, mlflow (docs/tracking.md)
  --dry_run             check everything, list what would be tried, and stop
  --help                this

example: {example}

options with their defaults:
{options}"""


def run(argv: list[str]) -> int:
    """Parse, check, then list the trials or try them and print the table."""
    given, options, keys = parse(argv)
    if given.get("help"):
        print(help_text())
        return 0
    require("tune", "ray", *(["optuna"] if options.get("search") == "optuna" else []))
    from recbole_blair.tune.run import build_sweep, run_sweep

    sweep = build_sweep(
        given.get("model"),
        given.get("dataset"),
        given.get("config_files") or [],
        given.get("resume"),
        options,
        fresh=bool(given.get("fresh")),
        **keys,
    )
    print_notes(sweep.notes)
    if given.get("dry_run"):
        from recbole_blair.tune.dry_run import print_dry_run

        return print_dry_run(sweep)
    from recbole_blair.tune.results import BEST, print_sweep

    check_output_folder(sweep.folder)
    command = f"tune {shlex.quote(f'--resume={sweep.folder}')}"
    with named_on_interrupt(sweep.folder / "sweep.yaml", command):
        result = run_sweep(sweep)
    print_sweep(sweep, result)
    if result["best"]:
        print_next(f"train {shlex.quote(f'--config_files={sweep.folder}/{BEST}')}")
    return 0 if result["best"] else 1


def parse(argv: list[str]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split the command line into what names the sweep, its options, and keys of the model.

    Raises:
        InputError: an argument that is no flag, a flag given twice.
    """
    overall, known = props_keys("overall.yaml"), props_keys(DEFAULTS)
    names = {"model": Kind("name"), "dataset": Kind("name")}
    keys = replace(overall, kinds={**overall.kinds, **known.kinds, **names})
    pairs = parse_flags(argv, keys, FLAGS, EXAMPLE)
    given = take_options(pairs, ("model", "dataset", "config_files", "resume"), FLAGS)
    if given.get("print_config"):
        raise InputError("tune has no --print_config; --dry_run lists what would be tried")
    for name in names:
        if name in given and not isinstance(given[name], str):
            raise InputError(f"--{name} needs a name, as in {EXAMPLE}")
    options = {key: pairs.pop(key) for key in list(pairs) if key in known.defaults}
    for key in pairs:
        if key.endswith("_per_trial"):
            raise InputError(f"unknown option --{key}.{nearest(key, known.defaults)}")
    return given, options, pairs


def help_text() -> str:
    """The usage with the options, as props/tune/tune.yaml explains them."""
    return fit(HELP.format(summary=SUMMARY, example=EXAMPLE, options=keys_text(DEFAULTS)))
