"""Open a run that was trained: its model with the best weights and its dataset; evaluate it again."""

from recbole_blair.config import Config, resolve_config
from recbole_blair.errors import InputError
from recbole_blair.quick_start import build_loaders, build_model, open_dataset, runtime_config
from recbole_blair.registry import find_model, use_plugins
from recbole_blair.train import checkpoint
from recbole_blair.train.evaluation import Evaluator
from recbole_blair.train.trainer import precision_context

PLACES = ("data_path", "raw_dir", "plm", "plugin", "device")


def load_run(run_dir, **places):
    """Open a run: its configuration, the model with its best weights, and the dataset.

    Args:
        run_dir (path)
        places: where things are now, for a run that was moved: `data_path`, `raw_dir`, `plm`, `plugin`, `device`.

    Returns:
        tuple: (Config, model on its device in evaluation mode, BlairDataset)

    Raises:
        InputError: no run folder; its plugin, its dataset, or its features with their encoder are gone; weights that
            do not fit.
    """
    use_plugins(places.get("plugin"))
    saved = {**checkpoint.load_config(run_dir), "device": "auto", **places}
    info = find_model(saved.pop("model"))
    config = runtime_config(resolve_config(info, saved.pop("dataset"), (), saved))
    trained_with = (checkpoint.load_metrics(run_dir) or {}).get("encoder")
    dataset = open_dataset(info, config, {}, trained_with)
    model = build_model(info, config, dataset)
    checkpoint.fit_weights(model, run_dir, f"{info.name} on {dataset.build_dir}")
    return config, model.eval(), dataset


def evaluate_run(run_dir, split="test", **changes):
    """Evaluate a run's best weights again.

    Args:
        changes: evaluation keys to change, such as `topk` or `mask_history`, and places as of `load_run`.

    Returns:
        tuple: (metrics dict, ranks (R,))
    """
    places = {key: changes.pop(key) for key in PLACES if key in changes}
    return evaluate_opened(*load_run(run_dir, **places), split, **changes)


def evaluate_opened(config, model, dataset, split="test", **changes):
    """Evaluate what `load_run` gave; changes and result as of `evaluate_run`."""
    unknown = sorted(set(changes) - {"topk", "metrics", "mask_history", "eval_batch_size", "max_score_elements"})
    if unknown:
        raise InputError(f"{unknown[0]!r} is no evaluation key")
    config = Config({**dict(config), **changes}, config.lenient)
    loaders = build_loaders(find_model(config["model"]), config, dataset)
    # no trainer: building an optimiser imports torch._dynamo, which takes longer than a small evaluation
    return Evaluator(loaders[split], config, config["device"], lambda: precision_context(config)).evaluate(model, split)
