"""The content of metrics.json: the metrics, and everything that they depend on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import recbole
import torch

from recbole_blair.files.checksum import file_sha256
from recbole_blair.ops import peak_memory_mb
from recbole_blair.parallel.distributed import world_size
from recbole_blair.schema import SPLITS, VERSION

if TYPE_CHECKING:
    from recbole_blair.data.dataset import BlairDataset
    from recbole_blair.train.trainer import BlairTrainer

TIES = "equal scores: the target holds the middle rank of its ties"
USER_TIES = "equal scores: a user's relevant items hold the middle ranks of their ties"


def summarise_run(
    trainer: BlairTrainer, dataset: BlairDataset, test: dict[str, float], seconds: dict[str, float]
) -> dict[str, Any]:
    """Build metrics.json's content.

    Args:
        trainer: after `fit`.
        test: the metrics of the test rows.
        seconds: by step: load, train, valid, test.
    """
    config, header = trainer.config, dataset.text_header or {}
    plugins = {"plugin_sha256": [plugin_sha256(file) for file in config["plugin"]]} if config["plugin"] else {}
    return {
        "model": config["model"],
        "dataset": dataset.name,
        "protocol": config["protocol"],
        "seed": config["seed"],
        "best_valid": trainer.best_metrics,
        "best_epoch": trainer.best_epoch,
        "test": test,
        "epochs": trainer.epoch,
        "stopped_early": trainer.stopped,
        "n_items": dataset.n_items - 1,
        "rows": {split: len(rows) for split, rows in dataset.rows.items()},
        **({} if dataset.has_histories else {"users": dict(zip(SPLITS, dataset.users_of_splits()))}),
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
        "peak_memory_mb": round(peak_memory_mb(config["device"]), 1),
        "train_batch_size": trainer.loaders["train"].batch_size,
        "history_masked": config["mask_history"],
        **({"test_targets_in_history": dataset.count_repeats("test")} if dataset.keeps_repeats() else {}),
        "ties": TIES if dataset.has_histories else USER_TIES,
        "encoder": header.get("encoder"),
        "precision": config["precision"],
        "device": str(config["device"]),
        "processes": world_size(),
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        **plugins,
        "versions": {
            "recbole_blair": VERSION, "torch": torch.__version__, "recbole": getattr(recbole, "__version__", "?"),
            "numpy": np.__version__,
        },
    }  # fmt: skip


def plugin_sha256(file: Path | str) -> str | None:
    """Return the SHA-256 of a plugin file; None when it is no longer there."""
    path = Path(file).expanduser()
    return file_sha256(path) if path.is_file() else None
