"""Small runs for tests: a model with random weights saved as a finished run, no training."""

import json

from builds import random_sequences, write_build

from recbole_blair.config import resolve_config
from recbole_blair.quick_start import open_dataset
from recbole_blair.registry import find_model
from recbole_blair.registry.build_model import build_model
from recbole_blair.text.encode import encode_build
from recbole_blair.train import checkpoint, run_folder
from recbole_blair.train.runtime import runtime_config, seed_everything

SMALL = {"hidden_size": 16, "n_heads": 2, "inner_size": 32, "adaptor_hidden_sizes": [24], "n_exps": 3}
WORDS = "red blue green big small cotton steel lamp shirt kettle phone case cable game chair desk".split()  # noqa: SIM905


def item_words(number):
    """Four words that tell an item from its neighbours."""
    return " ".join(WORDS[(number // 16**i + number * i) % 16] for i in range(4))


def write_text_build(folder, plm, n_users=30, n_items=40, name="tiny"):
    """Write a build whose item texts an encoder knows, and their features; returns its folder."""
    sequences = random_sequences(n_users=n_users, n_items=n_items)
    texts = {f"i{n:03d}": f"{item_words(n)}." for n in range(n_items)}
    build = write_build(folder, sequences, name, texts=texts)
    encode_build(build, plm, device="cpu", precision="fp32", progress=False)
    return build


def save_run(folder, model, build, seed=1, finished=True, **overrides):
    """Save a model of random weights as a run on a build; returns the run's folder."""
    info = find_model(model)
    defaults = info.load_defaults()
    keys = {k: v for k, v in SMALL.items() if k in defaults}
    keys.update(device="cpu", precision="fp32", data_path=str(build.parent), show_progress=False, **overrides)
    config = runtime_config(resolve_config(info, build.name, overrides=keys))
    dataset = open_dataset(info, config, {})
    seed_everything(seed)
    network = build_model(info, config, dataset)
    run_folder.save_config(folder, config)
    checkpoint.save_weights(checkpoint.best_path(folder), network)
    if finished:
        rows = {split: len(rows) for split, rows in dataset.rows.items()}
        header = dataset.text_header or {}
        about = {"model": model, "dataset": build.name, "n_items": dataset.n_items - 1, "rows": rows}
        (folder / run_folder.METRICS).write_text(json.dumps({**about, "encoder": header.get("encoder")}))
    return folder
