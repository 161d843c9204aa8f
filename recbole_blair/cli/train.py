"""`recbole-blair train`, the same as `python run_recbole.py`: RecBole's `--key=value` for every key."""

from recbole_blair.errors import InputError

SUMMARY = "train and evaluate a recommender; makes atomic files and features first"
EXAMPLE = "recbole-blair train --model=UniSRecBlair --dataset=Games --learning_rate=1e-3"
PASS_THROUGH = True  # every key of the YAML files is a flag; argparse cannot list them
FLAGS = ("dry_run", "print_config", "help")

HELP = """usage: recbole-blair train --model=MODEL --dataset=DATASET [--key=value ...]

{summary}.

  --model=NAME          one of `recbole-blair models`
  --dataset=NAME        an official category (Video_Games), a short name (Games), sample, or a folder in data_path
  --plugin=FILE.py      a recommender of your own, with FILE's YAML beside it (docs/plugins.md); several by commas
  --config_files=A,B    YAML files of keys, perhaps with model and dataset; the command line outranks them
  --resume=FOLDER       go on with a run that was interrupted (the same --output_dir does it too)
  --dry_run             say what would be done, with disk, memory and time, and stop
  --print_config        print every resolved key and stop
  --nproc=N             N processes on this machine train together, one a GPU; torchrun works too
  --tune                try many configurations: see `recbole-blair tune --help`
  --help                this; with --model=NAME its keys too

example: {example}

keys with their defaults:
{keys}"""


def run(argv):
    """Parse, then print the configuration, the plan, or train and print the table."""
    if "--tune" in argv:
        from recbole_blair.cli import tune

        return tune.run(argv)
    from recbole_blair.registry import use_plugins

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
    if options.get("dry_run"):
        from recbole_blair.runs.dry_run import print_plan

        return print_plan(options["model"], options["dataset"], files, overrides)
    from recbole_blair.parallel.launch import is_first_process, launch, started_by_launcher

    if not started_by_launcher():
        nproc = wanted_processes(options["model"], options["dataset"], files, overrides)
        if nproc > 1:
            return launch(nproc, ["train", *argv])
    from recbole_blair.quick_start import run_many
    from recbole_blair.train.display import print_results

    results = run_many(options["model"], options["dataset"], files, **overrides)
    if is_first_process():
        print_results(results)
    return 0


def wanted_processes(model, dataset, files, overrides):
    """Resolve the configuration, so that what is wrong with it is said once, and return its number of processes."""
    from recbole_blair.config import resolve_config
    from recbole_blair.parallel.launch import check_processes
    from recbole_blair.registry import find_model

    config = resolve_config(find_model(model), dataset, files, overrides)
    if config["nproc"] != 1:
        check_processes(config["nproc"], config["device"])
    return config["nproc"]


def parse(argv):
    """Split `--key=value`, `--key value` and bare `--flag` into options of this command and overrides.

    Raises:
        InputError: an argument that is none of these, or a key given twice with different values.
    """
    from recbole_blair.config import parse_value

    argv = ["--help" if word == "-h" else word for word in argv]
    pairs, i = {}, 0
    while i < len(argv):
        word = argv[i]
        if not word.startswith("--") or len(word) == 2:
            raise InputError(f"unexpected argument {word!r}; keys are written --key=value, as in {EXAMPLE}")
        key, has_value, text = word[2:].partition("=")
        if not has_value and key not in FLAGS and i + 1 < len(argv) and not argv[i + 1].startswith("--"):
            i, text, has_value = i + 1, argv[i + 1], True
        value = parse_value(text) if has_value else True
        if pairs.get(key, value) != value:
            raise InputError(f"--{key} is given twice, as {pairs[key]!r} and {value!r}")
        pairs[key] = value
        i += 1
    options = {k: pairs.pop(k) for k in ("model", "dataset", "config_files", *FLAGS) if k in pairs}
    for name in ("model", "dataset"):
        if name in options and not isinstance(options[name], str):
            raise InputError(f"--{name} needs a name, as in {EXAMPLE}")
    if isinstance(options.get("config_files"), str):
        options["config_files"] = [f for f in options["config_files"].replace(",", " ").split() if f]
    return options, pairs


def named_in(files, name):
    """The model or the dataset that the last of the YAML files names, such as a sweep's best.yaml; or None."""
    from recbole_blair.config import load_yaml

    found = [load_yaml(file).get(name) for file in files]
    return next((value for value in reversed(found) if value), None)


def plugin_paths(overrides):
    """The files of --plugin.

    Raises:
        InputError: the flag without a file.
    """
    given = overrides.get("plugin")
    if given is not None and not isinstance(given, str | list):
        raise InputError("--plugin needs a file, as in --plugin=myrec.py")
    return given


def help_text(model):
    """The usage with the defaults, as the YAML files explain them."""
    from recbole_blair.files.paths import props_dir
    from recbole_blair.registry import find_model

    text = (props_dir() / "overall.yaml").read_text(encoding="utf-8")
    if model:
        text += f"\n# {model}\n" + own_keys(find_model(model))
    keys = "\n".join(f"  {line}".rstrip() for line in text.splitlines())
    return HELP.format(summary=SUMMARY, example=EXAMPLE, keys=keys)


def own_keys(info):
    """The text of a model's YAML; a broken model's own error where it has none."""
    info.load_defaults()
    return info.yaml_path.read_text(encoding="utf-8")


def print_config(model, dataset, files, overrides):
    """Print the resolved keys as YAML that --config_files reads back."""
    import yaml

    from recbole_blair.config import resolve_config
    from recbole_blair.registry import find_model

    config = resolve_config(find_model(model), dataset, files, overrides)
    print(yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True), end="")
    return 0
