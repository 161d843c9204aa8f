"""What a pretraining leaves when it has ended: metrics.json, the exported encoder, its card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.files.own_json import write_own_json
from recbole_blair.ops import peak_memory_mb
from recbole_blair.parallel.distributed import world_size
from recbole_blair.pretrain import export
from recbole_blair.pretrain.collaborative_pairs import read_manifest
from recbole_blair.pretrain.pair_files import pairs_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from recbole_blair.pretrain.data import PairTables
    from recbole_blair.pretrain.model import PairEncoder
    from recbole_blair.pretrain.retrieval import RetrievalTask
    from recbole_blair.pretrain.settings import Settings

STATE_DIR, METRICS = "pretraining", "metrics.json"


def summary(
    settings: Settings,
    tables: PairTables,
    task: RetrievalTask | None,
    base: dict[str, Any],
    results: dict[str, dict[str, float]],
    timing: dict[str, Any],
    precision: str,
    model: PairEncoder,
) -> dict[str, Any]:
    """Return what metrics.json says."""
    pairs = len(tables.train) * timing["epochs"]  # fewer than all epochs where a callback stopped the training
    device = next(model.parameters()).device
    memory = {"process_mb": round(peak_memory_mb(), 1)}
    if device.type == "cuda":
        memory["device_mb"] = round(peak_memory_mb(device), 1)
    return {
        "base": base["name"],
        "objective": settings.objective,
        "seed": settings.seed,
        "settings": settings.fingerprint(),
        "data": {**tables.counts, "sha256": pairs_hash(settings.pairs), **made_from(settings.pairs)},
        "candidates": 0 if task is None else len(task.items),
        "queries": 0 if task is None else len(task.contexts),
        "before": results["before"],
        "after": results["after"],
        "seconds": {"train": round(timing["train"], 2)},
        "steps": timing["steps"],
        "resumed_at": timing["resumed_at"],
        "pairs_per_second": round(pairs / timing["train"], 2) if not timing["resumed_at"] else None,
        "peak_memory": memory,
        "precision": precision,
        "device": str(device),
        "processes": world_size(),
        "fresh_parameters": len(base["fresh"]),
        "versions": export.package_versions(),
    }


def made_from(pairs: Path | str) -> dict[str, Any]:
    """Return what collaborative pairs say of the build they were made from; empty for other pairs."""
    about = read_manifest(pairs) or {}
    names = ("build", "training_rows", "training_rows_sha256", "texts_sha256", "reviews_sha256", "first_instant_ms")
    return {**{name: about[name] for name in names if about.get(name) is not None}, **about.get("counts", {})}


def finish(
    folder: Path,
    model: PairEncoder,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    metrics: dict[str, Any],
    base: dict[str, Any],
) -> None:
    """Export, write metrics.json, then drop what only a resume would need."""
    card = export.model_card(
        base=base,
        licence=base["licence"],
        settings=settings.fingerprint(),
        data=metrics["data"],
        results={"before": metrics["before"], "after": metrics["after"]},
        pooling=model.pooling,
        fresh=base["fresh"],
    )
    export.export_encoder(model, tokenizer, folder, card)
    write_own_json(folder / STATE_DIR / METRICS, metrics, indent=2)
    drop_resume_state(folder / STATE_DIR)


def drop_resume_state(state: Path) -> None:
    """Remove what only a run that goes on would need."""
    for name in ("checkpoint", "tables"):
        shutil.rmtree(state / name, ignore_errors=True)
