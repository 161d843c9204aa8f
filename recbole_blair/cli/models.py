"""`recbole-blair models`: every recommender that can be named."""

SUMMARY = "list the recommenders with their source and one line"
EXAMPLE = "recbole-blair models --plugin=myrec.py"


def configure(parser):
    """Add the options."""
    parser.add_argument("--plugin", default=None, help="a Python file of a model of your own; several by commas")
    parser.add_argument("--source", default=None, help="only these: recbole_blair, plugin, package or RecBole")


def run(args):
    """Print one line a model; a model that cannot be imported is marked broken and says why below the list."""
    from recbole_blair.errors import InputError
    from recbole_blair.registry import list_models, use_plugins

    use_plugins(args.plugin)
    listed = [
        i for i in list_models().items() if not args.source or i[1].source.lower().startswith(args.source.lower())
    ]
    if not listed:
        raise InputError(f"no model comes from {args.source!r}; sources: recbole_blair, plugin, package, RecBole")
    broken = []
    names = max(14, *(len(name) for name, _ in listed))
    sources = max(14, *(len(info.source) for _, info in listed))
    for name, info in listed:
        try:
            text = first_line(info)
        except InputError as error:
            text = "BROKEN, see below"
            broken.append(f"{name}: {' '.join(str(error).split())}")
        print(f"{name:{names}} {info.source:{sources}} {text}")
    if broken:
        print("\nbroken; the other models work:")
        print("\n".join(f"  {line}" for line in broken))
    return 0


def first_line(info):
    """The first line of what a model's docstring says."""
    lines = (info.load_class().__doc__ or "").strip().splitlines()
    return lines[0].strip().lstrip("r").strip() if lines else ""
