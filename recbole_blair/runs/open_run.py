"""Opens a trained run where it stands now: its configuration, its dataset, its model with the best weights.

The run remembers paths of the day it was trained. What is needed of them is looked for, and what has gone is named.
"""

from __future__ import annotations

import functools
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recbole_blair import compat
from recbole_blair.config import Config, resolve_config
from recbole_blair.data.build import encoder_options, ensure_build, ensure_features, find_build, text_source
from recbole_blair.data.catalogue_dataset import CatalogueDataset
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.feature_transforms import chosen_transform
from recbole_blair.errors import InputError
from recbole_blair.ops import use_ops
from recbole_blair.registry import ModelInfo, find_model, remember_plugins, use_plugins
from recbole_blair.registry.build_model import build_model, uses_text
from recbole_blair.runs.fetch import find_run
from recbole_blair.runs.hub_layout import pushed_build
from recbole_blair.schema import SPLITS
from recbole_blair.text.encoders import encoder_name
from recbole_blair.text.trained.choice import FROZEN, EncoderTraining
from recbole_blair.text.trained.item_texts import PREFIX, SCALE
from recbole_blair.train import checkpoint
from recbole_blair.train.run_folder import CONFIG, ENCODER, METRICS, load_config, load_metrics
from recbole_blair.train.runtime import runtime_config

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender
    from torch import Tensor


@dataclass
class Places:
    """Where things are now, and what the model computes with; None: as in the run.

    Attributes:
        data_path: folder of the builds.
        raw_dir: folder of the raw files.
        plm: the text encoder.
        plugin: file of a model of the user's own.
        device: auto (CUDA when present), cpu, cuda, cuda:N.
        precision: fp32, bf16 or auto.
        ops: fast or plain; in this process from now on.
    """

    data_path: Path | str | None = None
    raw_dir: Path | str | None = None
    plm: Path | str | None = None
    plugin: Path | str | None = None
    device: str = "auto"
    precision: str | None = None
    ops: str | None = None

    def keys(self) -> dict[str, str]:
        """Return the keys of a configuration that are given."""
        return {key: str(value) for key, value in asdict(self).items() if value is not None}


PLACES = tuple(field.name for field in fields(Places))


@dataclass
class OpenRun:
    """A trained run.

    Attributes:
        folder: the run's folder.
        info: of its model.
        config: the run's own, its device and precision resolved on this machine.
        dataset: of the build it was trained on.
        metrics: metrics.json's content; empty for an unfinished run.
        encoder: the name of its text features; None for a model without.
    """

    folder: Path
    info: ModelInfo
    config: Config
    dataset: BlairDataset
    metrics: dict[str, Any]
    encoder: str | None

    @functools.cached_property
    def weights(self) -> dict[str, Tensor]:
        """The best weights, those of a text encoder that was trained among them.

        Raises:
            InputError: there are none, or they are damaged.
        """
        return checkpoint.load_best(self.folder)

    @property
    def text_scale(self) -> float | None:
        """The factor of the vectors of a text encoder that was trained with the run; None: none was trained."""
        return float(self.weights[SCALE]) if SCALE in self.weights else None

    @functools.cached_property
    def model(self) -> SequentialRecommender:
        """The model with the best weights, on its device in evaluation mode; built when it is first asked for.

        Raises:
            InputError: weights or features that are gone, damaged, or of another dataset.
        """
        if self.config["train_encoder"] != FROZEN:
            return self.unfinished_model()
        weights = {k: v for k, v in self.weights.items() if not k.startswith(PREFIX)}
        # The weights come first: what is damaged is named before features are read.
        if self.encoder is not None and self.text_scale is not None:
            self.dataset.load_text_features(self.encoder, self.config["plm_size"])
            self.dataset.set_text_features(self.scaled(self.dataset.text_features), self.dataset.text_header)
        elif self.encoder is not None:
            self.dataset.load_text_features(self.encoder, self.config["plm_size"], chosen_transform(self.config))
        model = build_model(self.info, self.config, self.dataset)
        checkpoint.fit_weights(model, weights, self.folder, f"{self.info.name} on {self.dataset.build_dir}")
        return model.eval()

    def unfinished_model(self) -> SequentialRecommender:
        """Return the model with a text encoder as the best epoch left it, which the run does not hold whole yet."""
        training = EncoderTraining.parse(self.config["train_encoder"])
        assert training is not None
        weights = self.weights
        self.dataset.text_source = text_source(self.config, self.dataset.build_dir, training)
        try:
            model = build_model(self.info, self.config, self.dataset)
        finally:
            self.dataset.text_source = None  # other runs share the dataset
        checkpoint.fit_weights(model, weights, self.folder, f"{self.info.name} on {self.dataset.build_dir}")
        return model.eval()

    def scaled(self, features: Tensor) -> Tensor:
        """Return features of the trained text encoder as the model takes them."""
        return features * torch.tensor(self.text_scale, dtype=torch.float64)  # as TrainedTexts does


def open_run(
    run_dir: Path | str,
    places: Places | None = None,
    datasets: dict[Path, BlairDataset] | None = None,
    make_missing: bool = False,
) -> OpenRun:
    """Open a trained run.

    Args:
        run_dir: its folder, or `org/name[@revision]` on the hub; see `find_run`.
        places: what is elsewhere now; with `data_path` a run from the hub opens on that build.
        datasets: datasets that are open, by build folder; the run's own is added. Runs that share one open it once.
        make_missing: convert and encode what is missing, as training does; False names what is missing.

    Raises:
        InputError: no run folder, or one of several runs; a plugin, build or features that are not there, or those of
            another dataset.
    """
    places, run_dir = places or Places(), find_run(run_dir)
    use_plugins(places.plugin)
    saved = load_config(run_dir)
    if saved.get("train_encoder", FROZEN) != FROZEN and holds_encoder(run_dir):
        saved.update(trained_encoder_keys(run_dir))
    if saved.get("seeds") or saved.get("baselines"):
        folders = sorted(str(path.parent) for path in Path(run_dir).glob(f"*/{CONFIG}"))
        raise InputError(f"{run_dir} holds several runs; name one of them: {', '.join(folders)}")
    remember_plugins(saved.get("plugin"))
    saved.update(places.keys())
    compat.apply()
    info = find_model(saved.pop("model"))
    metrics = load_metrics(run_dir) or {}
    config = runtime_config(resolve_config(info, saved.pop("dataset"), (), saved))
    use_ops(config["ops"])  # until another run is opened
    reads_text = uses_text(info)  # imports the model: its errors come first
    pushed = pushed_build(run_dir) if places.data_path is None else None
    make_missing = make_missing and pushed is None
    build_dir = pushed or (ensure_build(config) if make_missing else need_build(config, run_dir))
    encoder = None
    if reads_text and config["train_encoder"] == FROZEN:
        recorded = metrics.get("encoder")
        encoder = ensure_features(config, build_dir, recorded) if make_missing else features_name(config, recorded)
    datasets = {} if datasets is None else datasets
    if build_dir not in datasets:
        datasets[build_dir] = CatalogueDataset.open(build_dir) if pushed else BlairDataset(build_dir)
    check_same_dataset(run_dir, datasets[build_dir], metrics)
    return OpenRun(Path(run_dir), info, config, datasets[build_dir], metrics, encoder)


def holds_encoder(run_dir: Path | str) -> bool:
    """Tell whether a run that trains its text encoder holds it whole: it has ended, and is no trial of a sweep.

    Raises:
        InputError: the run has ended, but its encoder has gone.
    """
    if (Path(run_dir) / ENCODER / "config.json").is_file():
        return True
    if (Path(run_dir) / METRICS).is_file():
        raise InputError(f"{run_dir} trained its text encoder, but its {ENCODER}/ has gone; copy the run again")
    return False


def trained_encoder_keys(run_dir: Path | str) -> dict[str, Any]:
    """Return the keys by which a run whose text encoder was trained reads as one over the encoder that it holds."""
    folder = Path(run_dir) / ENCODER
    return {
        "train_encoder": FROZEN,
        "plm": str(folder),
        **{f"plm_{name}": None for name in ("revision", "pooling", "normalise")},
    }


def need_build(config: Config, run_dir: Path | str) -> Path:
    """Return the folder of the build a run was trained on.

    Raises:
        InputError: it is not there, or was made with other settings.
    """
    folder, whole = find_build(config)
    if not whole:
        raise InputError(
            f"the build {folder.name} that {run_dir} was trained on is not in {os.path.abspath(folder.parent)}; give "
            "the folder that holds it by --data_path=FOLDER, or make it with `recbole-blair prepare`"
        )
    return folder


def check_same_dataset(run_dir: Path | str, dataset: BlairDataset, metrics: dict[str, Any]) -> None:
    """Refuse a build whose items or rows are not as many as the run counted."""
    counted = {"items": dataset.n_items - 1, **{f"{s} rows": len(dataset.rows[s]) for s in SPLITS}}
    recorded = {"items": metrics.get("n_items"), **{f"{s} rows": metrics.get("rows", {}).get(s) for s in SPLITS}}
    for what, number in recorded.items():
        if number is not None and number != counted[what]:
            raise InputError(
                f"{run_dir} was trained on {metrics['dataset']} with {number} {what}, but {dataset.build_dir} has "
                f"{counted[what]}: it is another dataset; give the one of the run by --data_path=FOLDER"
            )


def features_name(config: Config, recorded: str | None) -> str:
    """Return the name of the run's features: as recorded when it finished, else that of its encoder."""
    return recorded or encoder_name(config["plm"], **encoder_options(config))
