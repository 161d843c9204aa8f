"""`recbole-blair models`: every recommender that can be named."""

SUMMARY = "list the recommenders with their source and one line"
EXAMPLE = "recbole-blair models"


def configure(parser):
    """No options."""


def run(args):
    """Print one line a model; a model that cannot be imported says why."""
    from recbole_blair.errors import InputError
    from recbole_blair.registry import list_models

    for name, info in list_models().items():
        try:
            line = (info.load_class().__doc__ or "").strip().splitlines()
            text = line[0].strip().lstrip("r").strip() if line else ""
        except InputError as error:
            text = f"cannot be loaded: {error}"
        print(f"{name:14} {info.source:14} {text}")
    return 0
