"""Reads atomic files once with a columnar reader and keeps a memory-mapped binary copy beside them.

The copy is flat: one table of events in sequence order, item and time side by side, and for every row of a split the
position of its target; its history is the slice just before. A user's rows repeat the same items over and over in the
text files, so the copy is several times smaller. Files whose rows do not chain like that (other tools') keep one slice
a row. Rows are drawn at random, from tables larger than a cache: what is read together lies together.
"""

import errno
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recbole_blair.errors import InputError
from recbole_blair.files.paths import file_stamps
from recbole_blair.files.write import whole_folder
from recbole_blair.schema import (
    CACHE_DIR,
    ITEM_ID,
    ITEM_SEQ,
    ITEM_SUFFIX,
    SPLITS,
    TIMESTAMP,
    TIMESTAMP_SEQ,
    USER_ID,
)

CACHE_VERSION = 2
BLOCK_BYTES = 32 << 20  # text read at a time
CHECKED = 1 << 16  # rows whose histories are checked at a time: in the cache, and in memory that is touched once
ARRAYS = ("events", *(f"{split}_rows" for split in SPLITS), "user_start")


def load_interactions(build_dir, use_cache=True):
    """Load a build's rows, from its binary copy when that is whole and newer than nothing it was made from.

    Args:
        build_dir (Path): folder of `<build>.{train,valid,test}.inter` and `<build>.item`.
        use_cache (bool): False reads the text and writes no copy.

    Returns:
        dict: `events` (S, 2) int64: item ids from 1, times in ms; `<split>_rows` (R, 3) int32: the target's position
        among them, history items before it, user from 1; `user_start` (U + 1,) int64: where a user's sequence starts
        (-1: rows not chained); `item_tokens` and `user_tokens`: pyarrow string arrays.

    Raises:
        InputError: a missing file, a column that is absent, an item that `.item` does not hold, an empty split, more
            than 2 ** 31 events.
    """
    build_dir = Path(build_dir)
    sources = source_files(build_dir)
    cache = build_dir / CACHE_DIR / "interactions"
    stamp = {
        "version": CACHE_VERSION,
        "sources": file_stamps(sources),
    }
    if use_cache and read_stamp(cache) == stamp:
        return map_cache(cache)
    tables = read_tables(build_dir)
    if not use_cache:
        return tables
    try:
        write_cache(cache, tables, stamp)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return tables  # a read-only build still works, from memory
    return map_cache(cache)


def source_files(build_dir):
    """The text files of a build; `.item` may be absent in other tools' builds."""
    name = build_dir.name
    paths = [build_dir / f"{name}.{split}.inter" for split in SPLITS]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise InputError(f"{build_dir} lacks {', '.join(missing)}; make it with `recbole-blair prepare`")
    item = build_dir / f"{name}{ITEM_SUFFIX}"
    return [*paths, item] if item.is_file() else paths


def read_stamp(cache):
    """What the binary copy was made from; None when there is none."""
    try:
        return json.loads((cache / "stamp.json").read_text())
    except (OSError, ValueError):
        return None


def map_cache(cache):
    """Memory-map the binary copy."""
    tables = {a: np.load(cache / f"{a}.npy", mmap_mode="r", allow_pickle=False) for a in ARRAYS}
    for name in ("item_tokens", "user_tokens"):
        with pa.memory_map(str(cache / f"{name}.arrow")) as source:
            tables[name] = pa.ipc.open_file(source).read_all().column(0).combine_chunks()
    return tables


def write_cache(cache, tables, stamp):
    """Write the binary copy; it can be made again, so nothing waits for the disk."""
    with whole_folder(cache, sync=False) as temporary:
        for name in ARRAYS:
            np.save(temporary / f"{name}.npy", tables[name], allow_pickle=False)
        for name in ("item_tokens", "user_tokens"):
            batch = pa.record_batch([tables[name]], names=[name])
            with (
                pa.OSFile(str(temporary / f"{name}.arrow"), "wb") as sink,
                pa.ipc.new_file(sink, batch.schema) as out,
            ):
                out.write_batch(batch)
        (temporary / "stamp.json").write_text(json.dumps(stamp))


def read_tables(build_dir):
    """Read the text files into the flat arrays."""
    name = build_dir.name
    item_tokens = read_item_tokens(build_dir / f"{name}{ITEM_SUFFIX}")
    parts = {s: read_inter(build_dir / f"{name}.{s}.inter") for s in SPLITS}
    for split, part in parts.items():
        if len(part["item"]) == 0:
            raise InputError(f"{name}.{split}.inter has no row: choose other instants or another dataset")
    users = pa.chunked_array([c for s in SPLITS for c in parts[s]["user"].chunks]).unify_dictionaries()
    user_codes = np.concatenate([c.indices.to_numpy(zero_copy_only=False) for c in users.chunks]).astype(np.int32) + 1
    user_tokens = users.chunk(users.num_chunks - 1).dictionary.cast(pa.string())
    if item_tokens is None:
        item_tokens = catalogue_of(parts)
    for split, part in parts.items():
        encode_items(part, item_tokens, f"{name}.{split}.inter")
    bounds = np.cumsum([0] + [len(parts[s]["item"]) for s in SPLITS])
    length = np.concatenate([parts[s]["length"] for s in SPLITS])
    rows = {
        "user": user_codes,
        "split": np.repeat(np.arange(len(SPLITS)), np.diff(bounds)),
        "item": np.concatenate([parts[s]["item"] for s in SPLITS]),
        "time": np.concatenate([parts[s]["time"] for s in SPLITS]),
        "length": length,
        "offset": np.cumsum(length) - length,  # where each row's history starts
        "history": np.concatenate([parts[s]["history"] for s in SPLITS]),
        "history_time": np.concatenate([parts[s]["history_time"] for s in SPLITS]),
    }
    tables = chain_rows(rows, len(user_tokens)) or slice_rows(rows, len(user_tokens))
    target = tables.pop("target")
    if len(tables["events"]) > np.iinfo(np.int32).max:
        raise InputError(f"{name} has {len(tables['events'])} events; more than 2 ** 31 are not supported")
    for i, split in enumerate(SPLITS):
        columns = (x[bounds[i] : bounds[i + 1]] for x in (target, rows["length"], user_codes))
        tables[f"{split}_rows"] = np.stack([x.astype(np.int32) for x in columns], 1)
    return {**tables, "item_tokens": item_tokens, "user_tokens": user_tokens}


def chain_rows(rows, n_users):
    """Lay every user's rows out as one sequence: the first row's history, then the targets.

    Returns None when some row's history is not the slice before its target: then the rows do not chain.
    """
    order = np.lexsort((np.arange(len(rows["user"])), rows["split"], rows["user"]))
    user = rows["user"][order]
    first = np.flatnonzero(np.diff(user, prepend=0))
    lead = np.zeros(len(user), np.int64)
    lead[first] = rows["length"][order][first]  # history items before the first target
    target_sorted = np.cumsum(lead + 1) - 1
    size = int(target_sorted[-1]) + 1
    target = np.empty(len(user), np.int64)
    target[order] = target_sorted
    user_start = np.full(n_users + 1, -1, np.int64)
    user_start[user[first]] = target_sorted[first] - lead[first]
    events = np.zeros((size, 2), np.int64)
    seq_items, seq_times = events.T
    seq_items[target], seq_times[target] = rows["item"], rows["time"]
    row = order[first]
    spread = ragged_range(rows["length"][row])
    at = np.repeat(target[row] - rows["length"][row], rows["length"][row]) + spread
    source = np.repeat(rows["offset"][row], rows["length"][row]) + spread
    seq_items[at], seq_times[at] = rows["history"][source], rows["history_time"][source]
    if not all(chained(rows, target, events, slice(i, i + CHECKED)) for i in range(0, len(target), CHECKED)):
        return None
    return {"events": events, "target": target, "user_start": user_start}


def chained(rows, target, events, part):
    """Tell whether the histories of a part of the rows are the slices before their targets."""
    length = rows["length"][part]
    at = np.repeat(target[part] - length, length) + ragged_range(length)
    if at.min(initial=0) < 0:
        return False
    start = int(rows["offset"][part.start])
    history = slice(start, start + len(at))
    items, times = events[at].T
    return np.array_equal(items, rows["history"][history]) and np.array_equal(times, rows["history_time"][history])


def slice_rows(rows, n_users):
    """One slice a row, history then target: for files whose rows do not chain."""
    target = np.cumsum(rows["length"].astype(np.int64) + 1) - 1
    events = np.zeros((target[-1] + 1, 2), np.int64)
    seq_items, seq_times = events.T
    seq_items[target], seq_times[target] = rows["item"], rows["time"]
    at = np.repeat(target - rows["length"], rows["length"]) + ragged_range(rows["length"])
    seq_items[at], seq_times[at] = rows["history"], rows["history_time"]
    unknown = np.full(n_users + 1, -1, np.int64)
    return {"events": events, "target": target, "user_start": unknown}


def ragged_range(lengths):
    """0..n-1 for each length, one after the other."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(starts, lengths)


def read_header(path):
    """Return `{field: column name as written}` of an atomic file."""
    with open(path, encoding="utf-8") as file:
        columns = file.readline().rstrip("\n").split("\t")
    return {column.split(":")[0]: column for column in columns}


def open_atomic(path, fields):
    """Stream the chosen fields of an atomic file as record batches of strings."""
    header = read_header(path)
    lacking = [f for f in fields if f not in header]
    if lacking:
        raise InputError(f"{path.name} lacks the column {', '.join(lacking)}; it has {', '.join(header)}")
    names = [header[f] for f in fields]
    try:
        yield from pacsv.open_csv(
            path,
            read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pacsv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise InputError(f"{path} cannot be read: {error}") from error


def read_item_tokens(path):
    """Item ids of `.item` in file order; None when the build has no such file."""
    if not path.is_file():
        return None
    batches = [batch.column(0) for batch in open_atomic(path, [ITEM_ID])]
    if not batches:
        raise InputError(f"{path} holds no item; make the build again with `recbole-blair prepare`")
    tokens = pa.concat_arrays(batches)
    if len(pc.unique(tokens)) != len(tokens):
        raise InputError(f"{path.name} holds an item twice; make the build again with `recbole-blair prepare`")
    return tokens


def read_inter(path):
    """Read one split: dictionary-coded users, item tokens, flattened histories and times."""
    has_times = {TIMESTAMP, TIMESTAMP_SEQ} <= read_header(path).keys()
    fields = [USER_ID, ITEM_SEQ, ITEM_ID] + ([TIMESTAMP_SEQ, TIMESTAMP] if has_times else [])
    user, item, length, history, time, history_time = [], [], [], [], [], []
    for batch in open_atomic(path, fields):
        user.append(batch.column(0).dictionary_encode())
        item.append(batch.column(2).dictionary_encode())
        lists = pc.split_pattern(batch.column(1), " ")
        length.append(np.diff(lists.offsets.to_numpy()))
        history.append(lists.flatten().dictionary_encode())
        if has_times:
            time.append(whole_ms(batch.column(4), path))
            history_time.append(whole_ms(pc.split_pattern(batch.column(3), " ").flatten(), path))
    dictionary = pa.dictionary(pa.int32(), pa.string())
    part = {
        "user": pa.chunked_array(user, dictionary),
        "item": pa.chunked_array(item, dictionary),
        "history": pa.chunked_array(history, dictionary),
        "length": np.concatenate(length) if length else np.zeros(0, np.int64),
    }
    if has_times and sum(map(len, history_time)) != len(part["history"]):
        raise InputError(f"{path.name}: {TIMESTAMP_SEQ} and {ITEM_SEQ} differ in length")
    part["time"] = np.concatenate(time) if time else np.zeros(len(part["item"]), np.int64)
    part["history_time"] = np.concatenate(history_time) if history_time else np.zeros(len(part["history"]), np.int64)
    return part


def whole_ms(strings, path):
    """Parse times as int64 milliseconds; they never pass through a float."""
    try:
        return pc.cast(strings, pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path.name} holds a time that is not whole milliseconds: {error}") from error


def catalogue_of(parts):
    """Items in order of first occurrence, for a build without `.item`."""
    chunks = [c.dictionary for s in SPLITS for key in ("history", "item") for c in parts[s][key].chunks]
    return pc.unique(pa.concat_arrays(chunks))


def encode_items(part, item_tokens, name):
    """Replace item tokens by ids from 1, in place."""
    for key in ("item", "history"):
        codes = []
        for chunk in part[key].chunks:
            ids = pc.index_in(chunk.dictionary, value_set=item_tokens)
            if ids.null_count:
                token = chunk.dictionary.filter(pc.is_null(ids))[0].as_py()
                raise InputError(
                    f"{name} holds the item {token!r}, which the .item file beside it lacks; make the build again with "
                    "`recbole-blair prepare`"
                )
            codes.append(ids.to_numpy()[chunk.indices.to_numpy()].astype(np.int32) + 1)
        part[key] = np.concatenate(codes) if codes else np.zeros(0, np.int32)
