"""`recbole-blair pretrain`: a text encoder trained on pairs, ready-made or made from raw reviews."""

from recbole_blair.cli.options import RAY_ONLY, ray_options
from recbole_blair.errors import InputError, nearest

SUMMARY = "train a text encoder on (review, item metadata) pairs; goes on where it was interrupted"
EXAMPLE = "recbole-blair pretrain --pairs=pairs.jsonl.gz --plm=FacebookAI/roberta-base --output_dir=my-blair"
PASS_THROUGH = True  # every key of props/pretrain/pretrain.yaml is a flag
OPTIONS = (
    *("help", "prepare_only", "print_config", "contamination", "config_files"),
    *("engine", "num_workers", *RAY_ONLY),
)
ENGINES = ("local", "ray")

HELP = """usage: recbole-blair pretrain (--pairs=FILE | --dataset=A,B) [--key=value ...]

{summary}.

  --pairs=FILE          file or folder of ready pairs
  --dataset=A,B         make pairs from the raw reviews of these domains first (or all)
  --prepare_only        make the pairs of --dataset and stop
  --contamination       make them, and report what of validation and test occurs in them, and stop
  --config_files=A,B    YAML files of keys; the command line outranks them
  --print_config        print every resolved key and stop
  --engine=local|ray    ray: in --num_workers=N processes of a Ray cluster, one a GPU (docs/scaling.md)
  --ray_address=ADDRESS auto or host:port of a cluster; empty: one is started here, with --ray_cpus=N CPUs
  --report_usage        let Ray send its usage statistics
  --help                this

An interrupted run goes on with the same command. Several GPUs:
  torchrun --nproc_per_node=4 -m recbole_blair pretrain --pairs=... --output_dir=...

example: {example}

keys with their defaults:
{keys}"""


def run(argv):
    """Parse, make pairs where asked for, train, print the table."""
    options, overrides = parse(argv)
    if options.get("help"):
        print(help_text())
        return 0
    from recbole_blair.pretrain.settings import resolve_settings

    ray, num_workers = cluster_options(options)
    settings = resolve_settings(overrides, options.get("config_files") or [])
    if options.get("print_config"):
        return print_config(settings)
    if (settings.pairs is None) == (settings.dataset is None):
        raise InputError(f"give either --pairs=FILE or --dataset=NAME; example: {EXAMPLE}")
    if settings.dataset is not None:
        settings["pairs"] = str(make_pairs(settings))
        if options.get("contamination"):
            return report_contamination(settings)
    if options.get("prepare_only"):
        print(settings.pairs)
        return 0
    if settings.output_dir is None:
        settings["output_dir"] = default_folder(settings)
    if ray:
        from recbole_blair.cluster.pretrain import pretrain_over_cluster

        metrics = pretrain_over_cluster(settings, num_workers, ray)
    else:
        from recbole_blair.pretrain.run import pretrain

        metrics = pretrain(settings)
    print_results(settings.output_dir, metrics)
    return 0


def cluster_options(options):
    """Return (RayOptions or None, workers).

    Raises:
        InputError: an unknown engine, no number of workers, or one without engine=ray.
    """
    engine = options.get("engine", "local")
    if engine not in ENGINES:
        raise InputError(f"--engine={engine} is not one of {', '.join(ENGINES)}")
    for key in ("num_workers", "ray_cpus"):
        if key in options and (isinstance(options[key], bool) or not isinstance(options[key], int)):
            raise InputError(f"--{key}={options[key]} is not a number")
    ray = ray_options(engine, options, ("num_workers",))
    if ray and "num_workers" not in options:
        raise InputError("--engine=ray needs --num_workers=N: processes, one a GPU where there are GPUs")
    return ray, options.get("num_workers")


def parse(argv):
    """Split `--key=value`, `--key value` and bare `--flag` into options of this command and keys.

    Raises:
        InputError: an argument that is none of these, an unknown flag, a key given twice.
    """
    from recbole_blair.config import parse_value
    from recbole_blair.pretrain.settings import default_settings

    known, pairs, i = default_settings(), {}, 0
    while i < len(argv):
        word = "--help" if argv[i] == "-h" else argv[i]
        if not word.startswith("--") or len(word) == 2:
            raise InputError(f"unexpected argument {word!r}; keys are written --key=value, as in {EXAMPLE}")
        key, has_value, text = word[2:].partition("=")
        if key not in known and key not in OPTIONS:
            raise InputError(
                f"unknown flag --{key}.{nearest(key, [*known, *OPTIONS])} `recbole-blair pretrain --help` lists all"
            )
        if not has_value and i + 1 < len(argv) and not argv[i + 1].startswith("--"):
            i, text, has_value = i + 1, argv[i + 1], True
        value = parse_value(text) if has_value else True
        if pairs.get(key, value) != value:
            raise InputError(f"--{key} is given twice, as {pairs[key]!r} and {value!r}")
        pairs[key] = value
        i += 1
    options = {name: pairs.pop(name) for name in OPTIONS if name in pairs}
    if isinstance(options.get("config_files"), str):
        options["config_files"] = [f for f in options["config_files"].replace(",", " ").split() if f]
    for name in ("pairs", "plm", "scratch", "output_dir"):
        if pairs.get(name) is True:
            raise InputError(f"--{name} needs a value, as in {EXAMPLE}")
    return options, pairs


def help_text():
    """The usage with the defaults, as the YAML file explains them."""
    from recbole_blair.files.paths import props_dir
    from recbole_blair.pretrain.settings import DEFAULTS

    text = (props_dir() / DEFAULTS).read_text(encoding="utf-8")
    keys = "\n".join(f"  {line}".rstrip() for line in text.splitlines())
    return HELP.format(summary=SUMMARY, example=EXAMPLE, keys=keys)


def print_config(settings):
    """Print the resolved keys as YAML that --config_files reads back."""
    import yaml

    print(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True), end="")
    return 0


def make_pairs(settings):
    """Make the pairs of --dataset and return their folder."""
    from dataset_tools.pretraining.review_pairs import PairSettings, make_pair_files
    from dataset_tools.storage.resources import Resources

    wanted = PairSettings(
        share=settings.sample_share,
        seed=settings.seed,
        min_chars=settings.min_chars,
        exclude_items=settings.exclude_items,
        exclude_reviews=settings.exclude_reviews,
    )
    resources = Resources(settings.memory_limit, progress=settings.show_progress)
    return make_pair_files(settings.dataset, settings.raw_dir, settings.pairs_path, wanted, resources)


def report_contamination(settings):
    """Print what of validation and test occurs in the pairs."""
    import json

    from dataset_tools.pretraining.contamination import report_contamination as report
    from dataset_tools.storage.resources import Resources

    resources = Resources(settings.memory_limit, progress=settings.show_progress)
    found = report(settings.pairs, settings.dataset, settings.raw_dir, resources)
    print(json.dumps(found, indent=2))
    return 0


def default_folder(settings):
    """Return runs/<time>-pretrain-<encoder>-<seed>."""
    import os
    import time
    from pathlib import Path

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("under torchrun --output_dir=FOLDER must be given, the same for every process")
    name = "scratch" if settings.scratch is not None else Path(str(settings.plm)).name
    return f"runs/{time.strftime('%Y%m%d-%H%M%S')}-pretrain-{name}-{settings.seed}"


def print_results(folder, metrics):
    """Print before, after, and where the encoder is; only the first process does."""
    from recbole_blair.parallel.distributed import rank

    if rank():
        return
    if metrics["after"]:
        print(f"{metrics['queries']} held-out contexts, {metrics['candidates']} candidate items")
        print(f"{'':12} {'before':>8} {'after':>8}")
    for name, value in metrics["after"].items():
        before = metrics["before"].get(name)
        print(f"{name:12} {'' if before is None else f'{before:.4f}':>8} {value:8.4f}")
    if metrics["fresh_parameters"]:
        print(f"{metrics['fresh_parameters']} tensors started at random: {metrics['base']} does not hold them")
    if metrics["pairs_per_second"]:
        print(f"{metrics['pairs_per_second']:.1f} pairs/s ({metrics['precision']}, {metrics['device']})")
    print(folder)
