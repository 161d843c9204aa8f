"""Opens a finished run where it stands now: nothing is downloaded, converted or encoded on the way.

The run remembers paths of the day it was trained. What is needed of them is looked for, and what has gone is named.
"""

import os
from pathlib import Path
from typing import NamedTuple

from recbole_blair.errors import InputError
from recbole_blair.schema import SPLITS


class OpenRun(NamedTuple):
    """An opened run: `model` on its device in evaluation mode, `encoder` the features' name or None."""

    folder: Path
    config: object
    model: object
    dataset: object
    info: object
    encoder: str | None


def open_run(run_dir, data_path=None, device="auto", precision=None, plugin=None):
    """Open a run with its best weights.

    Args:
        run_dir (path): a run's folder.
        data_path (path | None): folder of the builds; None: the run's own.
        device (str): auto, cpu, cuda, cuda:N.
        precision (str | None): fp32, bf16 or auto; None: the run's own.
        plugin (path | None): where the file of a model of one's own is now; None: where the run had it.

    Returns:
        OpenRun

    Raises:
        InputError: no run folder, a build or features that are not there, or those of another dataset.
    """
    from recbole_blair import compat
    from recbole_blair.config import resolve_config
    from recbole_blair.data.dataset import BlairDataset
    from recbole_blair.quick_start import build_model, runtime_config
    from recbole_blair.registry import find_model, use_plugins
    from recbole_blair.train import checkpoint

    use_plugins(plugin)
    saved = checkpoint.load_config(run_dir)
    if saved.get("seeds") or saved.get("baselines"):
        raise InputError(f"{run_dir} holds several runs; name one of them: {', '.join(folders_of(run_dir))}")
    changes = {"device": device, "data_path": data_path, "precision": precision, "plugin": plugin}
    saved.update({key: str(value) for key, value in changes.items() if value is not None})
    compat.apply()
    info = find_model(saved.pop("model"))
    metrics = checkpoint.load_metrics(run_dir) or {}
    config = runtime_config(resolve_config(info, saved.pop("dataset"), (), saved))
    dataset = BlairDataset(find_build(config, run_dir))
    check_same_dataset(run_dir, dataset, metrics)
    encoder = None
    if getattr(info.load_class(), "uses_text", False):
        encoder = features_name(config, metrics)
        dataset.load_text_features(encoder, config["plm_size"], config["feature_scale"])
    model = build_model(info, config, dataset)
    checkpoint.fit_weights(model, run_dir, f"{info.name} on {dataset.build_dir}")
    return OpenRun(Path(run_dir), config, model.eval(), dataset, info, encoder)


def folders_of(run_dir):
    """The run folders below one that holds several."""
    return sorted(str(path.parent) for path in Path(run_dir).glob("*/config.yaml"))


def find_build(config, run_dir):
    """Return the folder of the build a run was trained on.

    Raises:
        InputError: it is not there, or was made with other settings.
    """
    from dataset_tools.builds.folder import build_is_whole
    from recbole_blair.data.build import foreign_build, resolve_settings

    folder = foreign_build(config)
    if folder is not None:
        return folder
    try:
        settings = resolve_settings(config)
        folder = Path(config["data_path"]) / settings.build_name
        whole = build_is_whole(folder, settings)
    except InputError:
        folder, whole = Path(config["data_path"]) / config["dataset"], False
        if folder.is_dir():
            raise
    if not whole:
        raise InputError(
            f"the build {folder.name} that {run_dir} was trained on is not in {os.path.abspath(folder.parent)}; give "
            "the folder that holds it by --data_path=FOLDER, or make it with `recbole-blair prepare`"
        )
    return folder


def check_same_dataset(run_dir, dataset, metrics):
    """Refuse a build whose items or rows are not as many as the run counted."""
    found = {"items": dataset.n_items - 1, **{f"{s} rows": len(dataset.rows[s]) for s in SPLITS}}
    known = {"items": metrics.get("n_items"), **{f"{s} rows": metrics.get("rows", {}).get(s) for s in SPLITS}}
    for what, number in known.items():
        if number is not None and number != found[what]:
            raise InputError(
                f"{run_dir} was trained on {metrics['dataset']} with {number} {what}, but {dataset.build_dir} has "
                f"{found[what]}: it is another dataset; give the one of the run by --data_path=FOLDER"
            )


def features_name(config, metrics):
    """Return the name of the run's features: recorded when it finished, else that of its encoder."""
    if metrics.get("encoder"):
        return metrics["encoder"]
    from recbole_blair.text.encoders import encoder_name

    return encoder_name(config["plm"], config["plm_dimensions"])
