"""Pairs for training: read once into a memory-mapped table, tokenised batch by batch.

The rows of `pair_files.py` are kept as Arrow beside the run, with the keys that say which pairs share an item;
`datasets` maps that table into memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_blair.data.atomic import read_item_tokens
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_sha256, file_crc32
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.paths import file_stamps
from recbole_blair.files.read import iter_lines
from recbole_blair.files.write import whole_file
from recbole_blair.pretrain.pair_files import check_row, pair_files, read_pairs
from recbole_blair.schema import ITEM_SUFFIX, VALID_START_MS

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

KEYS = ("item_key", "metadata_key", "history_key", "context_key")  # of a row; equal where item, texts or history are
MIN_CHARS = 30  # both sides must have more: the released code's rule
HOLDOUT_TIME = "time"
TABLES = ("train.arrow", "held_out.arrow")


def text_key(text: str) -> int:
    """Return a 63-bit key of a text; equal texts have equal keys."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def held_out(context: str, item_id: str, time: int | None, holdout: str | float, seed: int) -> bool:
    """Say whether a pair is held out: from the first instant on, or a share by a hash of the pair itself."""
    if isinstance(holdout, str):  # HOLDOUT_TIME
        return time is not None and time >= VALID_START_MS
    digest = hashlib.blake2b(f"{seed}\t{item_id}\t{context}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < holdout * 2.0**64


def parse_holdout(value: str | float) -> str | float:
    """Return `time` or a share from 0 to below 1."""
    if value == HOLDOUT_TIME:
        return value
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share < 1:
        raise InputError(f"--holdout={value} is neither {HOLDOUT_TIME!r} nor a share from 0 to below 1, like 0.01")
    return share


class PairTables:
    """The pairs of a run: `train` and `held_out` (datasets.Dataset) and what was left out on the way."""

    def __init__(self, folder: Path, counts: dict[str, int]) -> None:
        from datasets import Dataset  # heavy, and an extra

        self.counts = counts
        self.train = Dataset.from_file(str(folder / "train.arrow"))
        self.held_out = Dataset.from_file(str(folder / "held_out.arrow"))


def source_stamp(files: list[Path], holdout: str | float, seed: int, min_chars: int) -> dict[str, Any]:
    """Return what a table depends on: the files' names, sizes and times, and the settings."""
    return {"files": file_stamps(files), "holdout": holdout, "seed": seed, "min_chars": min_chars, "format": 2}


def load_pair_tables(
    path: Path | str,
    folder: Path | str,
    *,
    holdout: str | float,
    seed: int = 0,
    min_chars: int = MIN_CHARS,
    progress: bool = True,
) -> PairTables:
    """Read pairs, filter, split, and map them into memory; a table made before from the same files is taken.

    Args:
        path: file or folder of pairs.
        folder: where the tables are kept.
        holdout: `time`: pairs from the first instant on (those without a time count as earlier); a
            share: that part, by a hash of the pair.
        seed: of the share.
        min_chars: both sides must have more characters.
        progress: show a bar.

    Returns:
        PairTables

    Raises:
        InputError: bad files, or no pairs left.

    Source: arXiv:2403.03952, section 3.1 (the filter), appendix (1 % held out).
    """
    files = pair_files(path)
    folder = Path(folder)
    stamp = source_stamp(files, holdout, seed, min_chars)
    manifest = folder / "tables.json"
    known = _read_manifest(manifest)
    if known.get("stamp") != stamp or not _tables_are_whole(folder, known):
        manifest.unlink(missing_ok=True)
        check_shards(files)
        counts = _write_tables(files, folder, holdout, seed, min_chars, progress)
        checksums = {name: file_crc32(folder / name) for name in TABLES}
        write_own_json(manifest, {"stamp": stamp, "counts": counts, "crc32": checksums}, ensure_ascii=True)
    tables = PairTables(folder, _read_manifest(manifest)["counts"])
    if not len(tables.train):
        raise InputError(
            f"no pairs left to train on in {path}: {json.dumps(tables.counts)}; both sides need more than {min_chars} "
            f"characters, and --holdout={holdout} holds the others out"
        )
    return tables


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return what is recorded of tables; {} where nothing is, or what is damaged: they are made again."""
    with contextlib.suppress(InputError):
        return read_own_json(path, "the record of tables", "", ("stamp", "counts"))
    return {}


def _tables_are_whole(folder: Path, known: dict[str, Any]) -> bool:
    """Tell whether the tables are as they were written; an earlier version recorded no checksums."""
    recorded = known.get("crc32", {})
    try:
        return all(file_crc32(folder / name) == recorded.get(name, "") for name in TABLES) if recorded else True
    except OSError:
        return False


def check_shards(files: list[Path]) -> None:
    """Compare pairs with the SHA-256 that our records beside them hold; others' pairs have none.

    Raises:
        InputError: a file of pairs is not the one that was written.
    """
    recorded: dict[str, str] = {}
    for record in files[0].parent.glob("*.json"):
        with contextlib.suppress(InputError, TypeError, KeyError):  # no record of ours, or damaged: of no shard
            shards = read_own_json(record, "a record of pairs", "").get("shards", ())
            recorded |= {shard["file"]: shard["sha256"] for shard in shards}
    for path in files:
        if path.name in recorded:
            check_sha256(path, recorded[path.name], "make the pairs again in another folder")


def _write_tables(
    files: list[Path], folder: Path, holdout: str | float, seed: int, min_chars: int, progress: bool
) -> dict[str, int]:
    """Write train.arrow and held_out.arrow; return the counts."""
    import pyarrow as pa  # heavy

    schema = pa.schema(
        [("context", pa.large_string()), ("metadata", pa.large_string()), ("item_id", pa.string())]
        + [(name, pa.int64()) for name in (*KEYS, "characters")]
    )
    counts = {"read": 0, "too_short": 0, "without_time": 0, "train": 0, "held_out": 0}
    names = ("train", "held_out")
    with ExitStack() as stack:
        places = {name: stack.enter_context(whole_file(folder / f"{name}.arrow")) for name in names}
        writers = {name: stack.enter_context(pa.ipc.new_stream(str(place), schema)) for name, place in places.items()}
        bar = stack.enter_context(tqdm(desc="read pairs", unit=" pairs", disable=not progress))
        for path in files:
            for first, rows in read_pairs(path):
                parts = _split_rows(path, first, rows, holdout, seed, min_chars, counts)
                for name in names:
                    if parts[name]:
                        writers[name].write_batch(pa.RecordBatch.from_pylist(parts[name], schema))
                bar.update(len(rows))
    return counts


def _split_rows(
    path: Path,
    first: int,
    rows: list[dict[str, Any]],
    holdout: str | float,
    seed: int,
    min_chars: int,
    counts: dict[str, int],
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table; adds to `counts`."""
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "held_out": []}
    for number, row in enumerate(rows, first):
        context, metadata, item_id, time, history = check_row(path, number, row)
        counts["read"] += 1
        if len(context) <= min_chars or len(metadata) <= min_chars:
            counts["too_short"] += 1
            continue
        counts["without_time"] += time is None
        name = "held_out" if held_out(context, item_id, time, holdout, seed) else "train"
        counts[name] += 1
        keys = {"item_key": text_key(item_id), "metadata_key": text_key(metadata)}
        keys |= dict.fromkeys(("history_key", "context_key"), -counts["read"])  # without a history: equal to no other
        if history is not None:
            counts["with_history"] = counts.get("with_history", 0) + 1
            keys |= {"history_key": text_key(history), "context_key": text_key(context)}
        size = len(context) + len(metadata)
        parts[name].append({"context": context, "metadata": metadata, "item_id": item_id, **keys, "characters": size})
    return parts


def choose_pairs(train: Dataset, exclude_items: Path | str | None, max_pairs: int | None, seed: int) -> Dataset:
    """Leave out the training pairs of some items, and take the wanted number of the others.

    Args:
        exclude_items: file of item ids, one per line, or the folder of a build; None leaves none out.
        max_pairs: pairs at most, those with the smallest hashes, so that fewer are a part of more; None: all.
        seed: of the hash.

    Returns:
        The chosen rows in the order of `train`.

    Raises:
        InputError: no pair is left; not a file of ids, not a build.
    """
    if exclude_items is None and max_pairs is None:
        return train
    left_out = set() if exclude_items is None else read_item_ids(exclude_items)
    rows = [n for n, item in enumerate(train["item_id"]) if item not in left_out]
    if not rows:
        raise InputError(f"--exclude_items={exclude_items} leaves none of the {len(train)} training pairs")
    if max_pairs is not None and len(rows) > max_pairs:
        texts = train.select(rows)
        keys = [text_key(f"{seed}\t{item}\t{text}") for item, text in zip(texts["item_id"], texts["context"])]
        rows = sorted(np.asarray(rows)[np.argsort(keys, kind="stable")[:max_pairs]].tolist())
    return train.select(rows)


def read_item_ids(path: Path | str) -> set[str]:
    """Return the ids of a file, one per line, or of the items of a build.

    Raises:
        InputError: neither.
    """
    path = Path(path)
    if not path.is_dir():
        return {word for _, line in iter_lines(path, "item ids, one per line") for word in line.split()}
    items = read_item_tokens(path / f"{path.name}{ITEM_SUFFIX}")
    if items is None:
        raise InputError(
            f"--exclude_items={path} holds no {path.name}{ITEM_SUFFIX}; expected a build, or a file of item ids"
        )
    return set(items.to_pylist())


class RowDataset(torch.utils.data.Dataset):
    """Rows of a table with their numbers, fetched a batch at a time."""

    def __init__(self, table: Dataset) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        rows = self.table[list(numbers)]
        names = ("context", "metadata", *KEYS)
        return [{"row": n, **{k: rows[k][i] for k in names}} for i, n in enumerate(numbers)]

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.__getitems__([number])[0]


class EpochOrder(torch.utils.data.Sampler):
    """The order of an epoch: a function of seed and epoch alone, so that a resumed run sees the same.

    Args:
        epoch: returns the epoch that begins.
        characters: (n_rows,) sizes; given, rows of like sizes share a batch.
        batch: pairs per step over all devices; batches stay in random order.
    """

    POOL_BATCHES = 50  # batches whose rows are sorted together, as transformers' length grouping does

    def __init__(
        self, n_rows: int, seed: int, epoch: Callable[[], int], characters: np.ndarray | None = None, batch: int = 1
    ) -> None:
        self.n_rows = n_rows
        self.seed = seed
        self.epoch = epoch
        self.characters = characters
        self.batch = batch

    def __len__(self) -> int:
        return self.n_rows

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch()])
        order = rng.permutation(self.n_rows)
        if self.characters is not None:
            order = self._group(order, self.characters, rng)
        return iter(order.tolist())

    def _group(self, order: np.ndarray, characters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sort within pools, cut into batches, shuffle the whole batches; the short one stays last."""
        pool = self.batch * self.POOL_BATCHES
        pools = [order[i : i + pool] for i in range(0, len(order), pool)]
        order = np.concatenate([part[np.argsort(characters[part], kind="stable")] for part in pools])
        whole = len(order) // self.batch
        batches = order[: whole * self.batch].reshape(whole, self.batch)
        return np.concatenate([batches[rng.permutation(whole)].reshape(-1), order[whole * self.batch :]])


class PairCollator:
    """Tokenise a batch of pairs: contexts first, then their metadata, right-padded to the longest.

    Args:
        tokenizer: the model's.
        max_length: tokens kept of a text.
        chunk: texts of one forward pass; 0: all at once.

    Returns of a call:
        dict: `ids (2B, T)`, `lengths (2B,)`, `row` and `KEYS` (B,), all int64; `chunks`: row numbers of texts of like
        lengths, which are padded to their own longest only.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, chunk: int, pad_id: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.chunk = chunk
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        texts = [row["context"] for row in rows] + [row["metadata"] for row in rows]
        ids, lengths = tokenise(self.tokenizer, texts, self.max_length, self.pad_id)
        batch: dict[str, Any] = {"ids": ids, "lengths": lengths}
        for name in ("row", *KEYS):
            batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.int64)
        batch["chunks"] = list(torch.argsort(lengths, descending=True, stable=True).split(self.chunk or len(texts)))
        return batch


def tokenise(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, pad_id: int
) -> tuple[Tensor, Tensor]:
    """Return ids (n, T) and lengths (n,) int64 of texts, right-padded whatever side the tokenizer prefers.

    Raises:
        InputError: a text that gives no token.
    """
    options = {"add_special_tokens": True, "truncation": True, "max_length": max_length}
    lists = tokenizer(texts, padding=False, return_attention_mask=False, return_token_type_ids=False, **options)
    token_ids = lists["input_ids"]
    lengths = torch.tensor([len(ids) for ids in token_ids])
    if int(lengths.min()) == 0:
        bad = texts[int(lengths.argmin())]
        raise InputError(f"the text {bad[:60]!r} gives no token with this tokenizer; leave its pair out")
    out = torch.full((len(texts), int(lengths.max())), pad_id, dtype=torch.int64)
    for row, ids in zip(out, token_ids):
        row[: len(ids)] = torch.tensor(ids)
    return out, lengths
