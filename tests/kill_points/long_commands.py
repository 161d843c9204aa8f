"""The long commands on tiny inputs: what they read, their command lines, and what may differ between two runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / room) for room in ("dataset_tools", "recommend", "search", "text")]

# Times, memory, processes, where a run went on, and the modification times that .cache/ compares.
OF_THIS_RUN = {
    "seconds", "time", "written", "pairs_per_second", "peak_memory", "peak_memory_mb", "pid", "opened", "resumed_at",
    "sources", "ms_per_text", "json_crc32",
}  # fmt: skip


@dataclass(frozen=True)
class LongCommand:
    """A command that takes long on real data.

    Args:
        argv: its command line; paths are relative to the folder that it runs in.
        write_inputs: writes what it reads into a folder.
        share: of the points, in proportion to its speed.
    """

    argv: list[str]
    write_inputs: Callable[[Path], object]
    share: float


def write_nothing(folder: Path) -> None:
    """Leave the folder empty: the command makes its inputs, too."""


def write_log(folder: Path) -> None:
    """Write a shop's log and items as CSV."""
    import own_raw

    own_raw.write_shop(folder)


def write_texts(folder: Path) -> None:
    """Write a build of item texts alone, and a tiny encoder."""
    from tiny_encoders import some_texts, write_items, write_tiny_encoder

    write_tiny_encoder(folder / "tiny")
    write_items(folder / "d" / "shop", some_texts(400))


def write_pairs(folder: Path) -> None:
    """Write pairs, and a tiny BERT with its masked-language head."""
    import torch
    from transformers import AutoModelForMaskedLM

    from recbole_blair.pretrain.load import train_tokenizer
    from tests.pretrain.conftest import pair_rows, tiny_config

    rows = pair_rows(60, 30)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer([row[side] for row in rows for side in ("context", "metadata")], 300, 64)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(tiny_config(tokenizer)).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")


def write_pool(folder: Path) -> None:
    """Write a query set with its pool, and a tiny encoder."""
    from tiny_encoders import some_texts, write_tiny_encoder

    write_tiny_encoder(folder / "tiny")
    (folder / "shop").mkdir()
    texts = [f"{text} number {n}" for n, text in enumerate(some_texts(200))]
    rows = [{"item_id": f"B{n}", "category": f"C{n % 3}", "metadata": text} for n, text in enumerate(texts)]
    (folder / "shop" / "item_pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [f"{n},{' '.join(texts[n].split()[:5])},B{n}" for n in range(0, 200, 10)]
    (folder / "shop" / "test.csv").write_text("\n".join(["qid,query,item_id", *queries]) + "\n")


def write_raw_reviews(folder: Path) -> None:
    """Write raw reviews and metadata of two domains."""
    from shop_data import write_raw

    write_raw(folder)


def write_trials(folder: Path) -> None:
    """Write a build with features, and a space of learning rates."""
    from builds import random_sequences, write_build, write_features

    write_features(write_build(folder / "d", random_sequences(n_users=60, n_items=30)))
    (folder / "space.yaml").write_text("learning_rate: {loguniform: [1.0e-4, 1.0e-2]}\n")


def write_run(folder: Path) -> None:
    """Write a build and a run on it, of random weights."""
    from recommend_runs import save_run, write_text_build

    save_run(folder / "run", "SASRecText", write_text_build(folder / "d", "tfidf-svd"), plm="tfidf-svd")


SAMPLE = "--dataset=sample --sample_users=100 --sample_items=50 --data_path=d --raw_dir=. --threads=1"
SMALL = "--hidden_size=16 --inner_size=32 --adaptor_hidden_sizes=[24] --epochs=3 --device=cpu --precision=fp32"
TIMES = ["--columns=user_id=customer,item_id=sku,timestamp=time", "--timestamp_unit=%Y-%m-%d %H:%M:%S"]
TEXTS = "--items=items.csv --item_columns=item_id=sku,title=name,categories=department,description=text"
COMMANDS = {  # name: command line, inputs, share
    "prepare": (f"prepare {SAMPLE} --quiet", write_nothing, 3),
    "prepare-csv": ("prepare --dataset=shop --interactions=log.csv --data_path=d --quiet " + TEXTS, write_log, 3),
    "encode": ("encode --build=d/shop --plm=tiny --precision=fp32 --batch_tokens=256 --quiet", write_texts, 3),
    "train": (
        f"train --model=SASRecText --plm=tfidf-svd --baselines=[SeqPop] --seeds=[1] --output_dir=run {SAMPLE} {SMALL}",
        write_nothing,
        3,
    ),
    "pretrain": (
        "pretrain --pairs=pairs.jsonl --plm=tiny --output_dir=out --device=cpu --precision=fp32 --holdout=0.2 "
        "--epochs=2 --save_steps=3 --eval_steps=6 --per_device_batch=8 --max_length=24 --show_progress=False",
        write_pairs,
        2,
    ),
    "search": (
        "search --dataset=shop --retriever=hybrid --plm=tiny --data_path=d --index_dir=index --output_dir=out "
        "--index=hnsw --topk=5,10 --bootstrap=50 --precision=fp32 --quiet",
        write_pool,
        2,
    ),
    "build-c4": (
        "build-c4 --dataset=Appliances,All_Beauty --raw_dir=. --output_dir=c4 --n=8 --model=m --language=any "
        "--candidates=5 --concurrency=2 --quiet",
        write_raw_reviews,
        2,
    ),
    "tune": (
        "tune --model=SASRecText --dataset=tiny --data_path=d --plm=someone/test-encoder --space=space.yaml "
        f"--num_samples=2 --ray_cpus=2 --output_dir=sweep {SMALL}",
        write_trials,
        0.4,
    ),
    "bench": (
        "bench --suite=smoke --plm=tfidf-svd --tasks=sequential,search-short --device=cpu --threads=1 --samples=100 "
        "--output_dir=out --data_path=d --raw_dir=raw --quiet",
        write_nothing,
        0.5,
    ),
    "recommend": (
        "recommend --checkpoint=run --data_path=d --users=u1,u2,u3 --output=top.parquet --quiet",
        write_run,
        1,
    ),
    "export-vectors": (
        "export-vectors --checkpoint=run --data_path=d --output_dir=vectors --faiss --quiet",
        write_run,
        1,
    ),
}
LONG_COMMANDS = {
    name: LongCommand([*line.split(), *(TIMES if name == "prepare-csv" else [])], write_inputs, share)
    for name, (line, write_inputs, share) in COMMANDS.items()
}


def read_results(folder: Path) -> dict[str, Any]:
    """Return what a command left: {path: content}, without times, logs and TensorBoard's events."""
    files = (path for path in sorted(folder.rglob("*")) if not path.name.startswith("events.out.tfevents."))
    return {str(path.relative_to(folder)): read_result(path) for path in files}


def read_result(path: Path) -> Any:
    """Return what must be the same in every run: bytes, parsed JSON without times, "folder" or "shown"."""
    if path.is_dir():
        return "folder"
    if path.name == "log.txt" or path.suffix == ".html":  # a page shows seconds
        return "shown"
    if path.name == "checksums.json":
        return {name: sums for name, sums in json.loads(path.read_text()).items() if name != "state.pt"}
    if path.name == "journal.jsonl":  # of calls that were under way together
        return sorted(path.read_text().splitlines())
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return without_times(pyarrow.parquet.read_table(path).to_pydict())
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".pt":
        import torch

        return without_times(torch.load(path, weights_only=True))
    return path.read_bytes()


def without_times(value: Any) -> Any:
    """Return a value without what depends on the clock, the process and the machine; tensors become bytes."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in OF_THIS_RUN}
    if isinstance(value, (list, tuple)):
        return [without_times(item) for item in value]
    return value.numpy().tobytes() if hasattr(value, "numpy") else value
