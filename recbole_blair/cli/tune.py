"""`recbole-blair tune`, the same as `python run_recbole.py --tune`: a sweep over a model's keys with Ray Tune."""

from recbole_blair.errors import InputError, nearest

SUMMARY = "try many configurations of a recommender, stop the bad ones, evaluate the best"
EXAMPLE = "recbole-blair tune --model=UniSRecBlair --dataset=Games --num_samples=32 --gpus_per_trial=0.5"
PASS_THROUGH = True  # every option of props/tune/tune.yaml and every key of the model is a flag
FLAGS = ("dry_run", "help", "tune")

HELP = """usage: recbole-blair tune --model=MODEL --dataset=DATASET [--option=value ...] [--key=value ...]

{summary}.

  --model=NAME          one of `recbole-blair models`
  --dataset=NAME        an official category (Video_Games), a short name (Games), sample, or a folder in data_path
  --output_dir=FOLDER   the sweep's folder; empty: runs/<time>-tune-<model>-<dataset>
  --resume=FOLDER       go on with a sweep that was interrupted (the same --output_dir does it too)
  --config_files=A,B    YAML files of keys; the space outranks them
  --key=value           a key of the model or of `train`, the same for every trial; it leaves the space
  --dry_run             check everything, list what would be tried, and stop
  --help                this

example: {example}

options with their defaults:
{options}"""


def run(argv):
    """Parse, check, then list the trials or try them and print the table."""
    given, options, keys = parse(argv)
    if given.get("help"):
        print(help_text())
        return 0
    from recbole_blair.tune.run import build_sweep, run_sweep

    sweep = build_sweep(
        given.get("model"), given.get("dataset"), given.get("config_files") or [], given.get("resume"), options, **keys
    )
    if given.get("dry_run"):
        from recbole_blair.tune.plan import print_plan

        return print_plan(sweep)
    from recbole_blair.tune.results import print_sweep

    result = run_sweep(sweep)
    print_sweep(sweep, result)
    return 0 if result["best"] else 1


def parse(argv):
    """Split the command line into what names the sweep, its options, and keys of the model.

    Returns:
        tuple: (dict, dict, dict)

    Raises:
        InputError: an argument that is no flag, a flag given twice.
    """
    from recbole_blair.cli.train import parse as parse_keys
    from recbole_blair.tune.settings import default_settings

    argv = [word for word in argv if word not in ("--tune", "--tune=True", "--tune=true")]
    given, pairs = parse_keys(argv)
    if given.get("print_config"):
        raise InputError("tune has no --print_config; --dry_run lists what would be tried")
    known = default_settings()
    options = {key: pairs.pop(key) for key in list(pairs) if key in known}
    if "resume" in pairs:
        given["resume"] = pairs.pop("resume")
    for key in pairs:
        if key.endswith("_per_trial"):
            raise InputError(f"unknown option --{key}.{nearest(key, known)}")
    return given, options, pairs


def help_text():
    """The usage with the options, as props/tune/tune.yaml explains them."""
    from recbole_blair.files.paths import props_dir
    from recbole_blair.tune.settings import DEFAULTS

    text = (props_dir() / DEFAULTS).read_text(encoding="utf-8")
    lines = "\n".join(f"  {line}".rstrip() for line in text.splitlines())
    return HELP.format(summary=SUMMARY, example=EXAMPLE, options=lines)
