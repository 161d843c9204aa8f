"""Trains the tiny runs that the report's tests read."""

from pathlib import Path

FAST = {
    "epochs": 2, "train_batch_size": 32, "device": "cpu", "precision": "fp32", "show_progress": False,
    "plm": "someone/test-encoder", "save_ranks": True, "dataset": "tiny",
}  # fmt: skip
SMALL = {
    "SASRecText": {"hidden_size": 16, "inner_size": 32, "adaptor_hidden_sizes": [24]},
    "SASRec": {"hidden_size": 16, "inner_size": 32},
    "SeqPop": {},
}


def train(model, seed, folder, data_path, **keys):
    """Train one tiny run; returns its folder."""
    from recbole_blair.quick_start import run

    run(model, seed=seed, output_dir=str(folder), data_path=str(data_path), **{**SMALL[model], **FAST, **keys})
    return Path(folder)
