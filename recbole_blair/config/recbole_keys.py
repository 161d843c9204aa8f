"""RecBole's keys: those with a meaning here become our keys, the others are passed over, named or refused.

`props/recbole/keys.yaml` lists the keys that nothing reads here; the functions of `TRANSLATED` take the others.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

from recbole_blair.config.keys import load_yaml
from recbole_blair.config.kinds import shorten, split_list
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir

NEGATIVES = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
EVAL_ARGS = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}  # RecBole's defaults
OTHER_METRICS = (  # of RecBole's
    "precision", "map", "gauc", "auc", "logloss", "mae", "rmse", "itemcoverage", "averagepopularity", "giniindex",
    "shannonentropy", "tailpercentage",
)  # fmt: skip
COLUMNS = {  # that a run reads, or that make no difference
    "inter": {"user_id", "item_id", "item_id_list", "timestamp", "timestamp_list", "rating", "label"},
    "item": {"item_id", "title", "text", "categories", "store", "price"},
}
FIRST = ("use_gpu", "repeatable")  # they outrank what gpu_id and eval_args say of the same
INTERVALS = ("user_inter_num_interval", "item_inter_num_interval")

Layers = Sequence[tuple[str, Mapping[str, Any]]]  # where keys come from, and the keys
Translated = tuple[dict[str, Any], str]  # our keys, and what a note says of them, empty for none


def translate_layer(
    layer: Mapping[str, Any], source: str, own: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Return a layer with our keys in place of RecBole's, and notes on those that nothing reads.

    A key that is given by its name here outranks the same by RecBole's.

    Args:
        layer: keys of one YAML file or of the command line.
        source: where they come from, for messages.
        own: keys of the model's own YAML, which are left alone.

    Raises:
        InputError: a value that RecBole does not take either, or that would change results if it were left out.
    """
    values, notes, table = dict(layer), [], unread_keys()
    for key in sorted((key for key in layer if key not in own), key=lambda key: key not in FIRST):
        if key in table:
            value, rule = values.pop(key), table[key]
            if value is None or value in ("", [], {}) or any(same(value, other) for other in rule["anyway"]):
                continue
            if rule["then"] == "refuse":
                raise InputError(f"{key}={shorten(value)} in {source}: a key of RecBole's; here: {rule['instead']}")
            notes.append(f"{key}={shorten(value)} ({rule['instead']})")
        elif key in TRANSLATED:
            found, note = TRANSLATED[key](values.pop(key), source)
            for name, value in found.items():
                if name == "protocol" and layer.get(name, value) != value:
                    raise InputError(
                        f"{key} in {source} means {name}={value}, but {name}={layer[name]} stands beside it"
                    )
                values.setdefault(name, value)
            notes += [f"{key} ({note})"] if note else []
    return values, notes


def translate_layers(layers: Layers, own: Collection[str] = ()) -> list[tuple[str, dict[str, Any]]]:
    """Return layers (source, keys) with our keys in place of RecBole's."""
    return [(source, translate_layer(layer, source, own)[0]) for source, layer in layers]


@functools.cache
def unread_keys() -> dict[str, dict[str, Any]]:
    """Return the rules of `props/recbole/keys.yaml`, by key."""
    return load_yaml(props_dir() / "recbole" / "keys.yaml")


def recbole_names() -> list[str]:
    """Return RecBole's keys that have another name here, or none."""
    return sorted({*unread_keys(), *TRANSLATED, *INTERVALS})


def same(value: object, other: object) -> bool:
    """Tell whether two values are equal, text in any case and `0` the same as 0."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other or str(value).lower() == str(other).lower()
    return value == other or str(value).lower() == str(other).lower()


def translate_gpu_id(value: object, source: str) -> Translated:
    """Take RecBole's list of GPUs: the first is the device, none is the CPU, 0 is whatever is there."""
    parts = [str(part).strip() for part in split_list("" if value is None else value, texts=True)]
    ids = [part for part in parts if part]
    if not all(re.fullmatch(r"[0-9]{1,4}", part) for part in ids):
        raise InputError(f"gpu_id={shorten(value)} in {source}; expected numbers of GPUs joined by commas, as in 0,1")
    if not ids:
        return {"device": "cpu"}, ""
    note = f"one of them is used; nproc={len(ids)} trains on as many" if len(ids) > 1 else ""
    return {"device": "auto" if int(ids[0]) == 0 else f"cuda:{int(ids[0])}"}, note


def translate_use_gpu(value: object, source: str) -> Translated:
    """Take RecBole's switch; True chooses no device."""
    if not isinstance(value, bool):
        raise InputError(f"use_gpu={shorten(value)} in {source}; expected True or False")
    return ({} if value else {"device": "cpu"}), ""


def translate_log_wandb(value: object, source: str) -> Translated:
    """Take RecBole's switch of its tracker; False chooses none."""
    if not isinstance(value, bool):
        raise InputError(f"log_wandb={shorten(value)} in {source}; expected True or False")
    return ({"log": ["wandb"]} if value else {}), ""


def translate_repeatable(value: object, source: str) -> Translated:
    """Take RecBole's `repeatable`: whether what a user has stays in the ranking."""
    if not isinstance(value, bool):
        raise InputError(f"repeatable={shorten(value)} in {source}; expected True or False")
    return {"mask_history": not value}, ""


def translate_negatives(value: object, source: str) -> Translated:
    """Take RecBole's defaults of negative sampling, or none; nothing else is offered."""
    given = {} if value in (None, "None", "none", "") else value
    if isinstance(given, Mapping) and all(
        key in NEGATIVES and (same(v, NEGATIVES[key]) or (key == "distribution" and same(v, "none")))
        for key, v in given.items()
    ):
        return {}, ""
    raise InputError(
        f"train_neg_sample_args={shorten(value)} in {source}: a key of RecBole's; here: models of pairs get one "
        "uniform negative per row, the others rank all items"
    )


def translate_clip(value: object, source: str) -> Translated:
    """Take the largest norm out of RecBole's arguments of `clip_grad_norm_`."""
    if not isinstance(value, Mapping):
        return {"clip_grad_norm": value}, ""
    if (
        "max_norm" not in value
        or not same(float_of(value.get("norm_type", 2)), 2.0)
        or set(value) - {"max_norm", "norm_type"}
    ):
        raise InputError(f"clip_grad_norm={shorten(value)} in {source}; expected max_norm, and norm_type 2 if any")
    return {"clip_grad_norm": value["max_norm"]}, ""


def float_of(value: object) -> object:
    """Return a number as a float, anything else as it is."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def translate_metrics(value: object, source: str) -> Translated:
    """Leave out RecBole's metrics that are not computed here, unless none would be left."""
    names = split_list(value, texts=True)
    kept = [name for name in names if str(name).lower() not in OTHER_METRICS]
    if not kept or len(kept) == len(names):
        return {"metrics": value}, ""
    left = [str(name) for name in names if name not in kept]
    return {"metrics": kept}, f"{', '.join(left)}: not computed here"


def translate_load_col(value: object, source: str) -> Translated:
    """Take RecBole's choice of columns: what a run reads is fixed, so that more columns are only named."""
    if value is None:
        return {}, ""
    if not isinstance(value, Mapping):
        raise InputError(f"load_col={shorten(value)} in {source}; expected lists of columns, as in inter: [user_id]")
    others = [
        f"{suffix}: {', '.join(more)}"
        for suffix, names in value.items()
        if (more := [str(name) for name in split_list(names, texts=True) if name not in COLUMNS.get(str(suffix), ())])
    ]
    hint = "not read; text_fields chooses the columns of the items' texts"
    return {}, f"{shorten('; '.join(others)).strip(chr(39))}: {hint}" if others else ""


def translate_eval_args(value: object, source: str) -> Translated:
    """Take RecBole's `eval_args` where it says what one of the protocols does.

    LS valid_and_test / TO / user is last_out, RS / RO / none is random with these shares, RS 8:1:1 / TO / none is
    timestamp; all rank every item. RecBole's sequential models rank the history's items, too.
    """
    place = f"eval_args in {source}"
    if value is None:
        return {}, ""
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: {shorten(value)}; expected split, group_by, order and mode")
    for key in value:
        if key not in EVAL_ARGS:
            raise InputError(f"{place}: unknown {shorten(key)}.{nearest(str(key), EVAL_ARGS)}")
    mode = value.get("mode", "full")
    for one in mode.values() if isinstance(mode, Mapping) else [mode]:
        if not same(one, "full"):
            raise InputError(
                f"{place}: mode={shorten(one)} ranks against a sample; here every item is ranked: mode: full"
            )
    if set(value) <= {"mode"}:
        return {}, ""
    split = value.get("split", EVAL_ARGS["split"])
    if not isinstance(split, Mapping) or len(split) != 1:
        raise InputError(f"{place}: split={shorten(split)}; expected one strategy, as in LS: valid_and_test")
    ((strategy, how),) = split.items()
    leave_out = same(strategy, "LS")
    order = str(value.get("order", "TO" if leave_out else EVAL_ARGS["order"])).upper()
    group = str(value.get("group_by", EVAL_ARGS["group_by"])).lower()
    if leave_out and (str(how), order, group) == ("valid_and_test", "TO", "user"):
        return {"protocol": "last_out", "mask_history": False}, "protocol=last_out, a 5-core, mask_history=False"
    shares = whole_shares(how) if same(strategy, "RS") else None
    if shares and (order, group) == ("RO", "none"):
        return {"protocol": "random", "split_shares": shares}, "protocol=random, of users with two items or more"
    if shares == [8, 1, 1] and (order, group) == ("TO", "none"):
        return {
            "protocol": "timestamp"
        }, "protocol=timestamp: 8:1:1 of data of your own, the papers' instants of Amazon's"
    raise InputError(
        f"{place}: split {shorten(dict(split))}, order {order}, group_by {group} is no protocol here; those are LS "
        "valid_and_test, TO, user (last_out); RS, RO, none (random); RS [0.8,0.1,0.1], TO, none (timestamp); other "
        "instants by --valid_start_ms, --test_start_ms"
    )


def whole_shares(value: object) -> list[int] | None:
    """Return three shares such as 0.8, 0.1, 0.1 as the smallest whole numbers, 8, 1, 1; None where they are none."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 1e-6 < v < 1e6 for v in value):
        return None
    parts = [Fraction(str(v)).limit_denominator(1000) for v in value]
    scale = math.lcm(*(part.denominator for part in parts))
    numbers = [int(part * scale) for part in parts]
    return [number // math.gcd(*numbers) for number in numbers] if all(numbers) else None


TRANSLATED: dict[str, Callable[[Any, str], Translated]] = {
    "gpu_id": translate_gpu_id,
    "use_gpu": translate_use_gpu,
    "log_wandb": translate_log_wandb,
    "repeatable": translate_repeatable,
    "train_neg_sample_args": translate_negatives,
    "clip_grad_norm": translate_clip,
    "metrics": translate_metrics,
    "load_col": translate_load_col,
    "eval_args": translate_eval_args,
}


def take_intervals(layers: Layers, five_core: bool) -> list[tuple[str, dict[str, Any]]]:
    """Return layers without RecBole's least numbers of events, which are a matter of `prepare`.

    Args:
        layers: (source, keys) in order, the last wins.
        five_core: the build is a 5-core of users and items, so `[5,inf)` for both is what happens anyway.

    Raises:
        InputError: another limit; names the options of `prepare`.
    """
    found = {key: (layer[key], source) for source, layer in layers for key in INTERVALS if key in layer}
    least = {key: least_of(key, *given) for key, given in found.items()}
    asked = {key: number for key, number in least.items() if number > 1}
    if asked and not (five_core and asked == dict.fromkeys(INTERVALS, 5)):
        key = next(iter(asked))
        flags = zip(INTERVALS, ("min_events", "min_item_events"))
        options = " ".join(f"--{flag}={asked[name]}" for name, flag in flags if name in asked)
        raise InputError(
            f"{key}={shorten(found[key][0])} in {found[key][1]}: a build is filtered when it is made; leave the key "
            f"out after recbole-blair prepare {options}, or use protocol=last_out, a 5-core of users and items"
        )
    return [(source, {k: v for k, v in layer.items() if k not in INTERVALS}) for source, layer in layers]


def least_of(key: str, value: object, source: str) -> int:
    """Return the least number that an interval such as `[5,inf)` lets pass.

    Raises:
        InputError: no such interval, or one that ends.
    """
    if value is None:
        return 0
    interval = re.fullmatch(r"\s*([\[(])\s*([0-9]{1,9})\s*,\s*inf\s*[\])]\s*", str(value))
    if interval is None:
        raise InputError(f"{key}={shorten(value)} in {source}; expected an interval without end, as in [5,inf)")
    return int(interval[2]) + (interval[1] == "(")
