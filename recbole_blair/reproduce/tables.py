"""The tables to reproduce: YAML files read into complete rows, found by their ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from recbole_blair.config import load_yaml
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir
from recbole_blair.reproduce.orders import Order, read_orders

FOLDER = "reproduce"
NOT_TABLES = ("encoders", "smoke")
ALL = "all"
COMMANDS = ("prepare", "stats", "pairs", "pools", "train", "pretrain", "search", "bench")
UNITS = {"per cent": 100, "fraction": 1, "count": 1}  # what our numbers are multiplied by
NEEDED = ("published", "commands", "tolerance", "checks")
SEVERAL = re.compile(r"[,\s]+")


@dataclass(frozen=True)
class Row:
    """One line of a table on one data set: what is run, what the source says, how large a difference is tolerated."""

    table: str
    name: str
    label: str  # of the data
    source: str
    unit: str
    data: dict[str, Any]  # `dataset` and what else the commands name
    encoder: str | None
    model: str | None
    seeds: tuple[int, ...]
    commands: tuple[tuple[str, dict[str, Any]], ...]  # keys hold placeholders; the last command is measured
    published: dict[str, Any]  # metric -> value in `unit`, None: not legible
    reasons: dict[str, str]  # metric -> why it cannot be compared; in YAML one text may stand for all metrics
    tolerance: dict[str, Any]  # relative, absolute, why
    cost: dict[str, Any]  # hours on one A100 or H200, derived
    checks: tuple[str, ...]  # what --scale=smoke asserts
    note: str = ""
    keys: dict[str, Any] = field(default_factory=dict)
    x: dict[str, float] = field(default_factory=dict)  # what a figure draws the row over

    @property
    def id(self) -> str:
        """Return `<table>/<name>/<data>`."""
        return f"{self.table}/{self.name}/{self.label}"

    def metric_name(self, metric: str) -> str:
        """Return the row's own name of a metric: a row of an untrained encoder has `before ndcg@10`."""
        return f"before {metric}" if f"before {metric}" in self.published else metric

    def scope(self) -> dict[str, Any]:
        """Return what placeholders of the commands may name."""
        return {**self.data, "model": self.model, "encoder": self.encoder, "seeds": list(self.seeds) or None}


def table_ids() -> list[str]:
    """Return the ids of all tables: the names of their files."""
    names = (path.stem for path in (props_dir() / FOLDER).glob("*.yaml"))
    return sorted(name for name in names if name not in NOT_TABLES)


def load_encoders() -> dict[str, Any]:
    """Return the encoders that rows name."""
    return load_yaml(props_dir() / FOLDER / "encoders.yaml")


def load_smoke() -> dict[str, Any]:
    """Return the settings of --scale=smoke."""
    return load_yaml(props_dir() / FOLDER / "smoke.yaml")


def load_table(name: str) -> list[Row]:
    """Return the rows of one table.

    Raises:
        InputError: its file is not whole; names the file, the row and what is missing.
    """
    path = props_dir() / FOLDER / f"{name}.yaml"
    table, encoders = load_yaml(path), load_encoders()
    rows = []
    for row_name, given in table["rows"].items():
        merged = {**{k: v for k, v in table.items() if k != "rows"}, **given}
        missing = [key for key in NEEDED if not merged.get(key)]
        if missing:
            raise InputError(f"{path.name}: row {row_name!r} has no {missing[0]}")
        if merged.get("encoder") is not None and merged["encoder"] not in encoders:
            raise InputError(
                f"{path.name}: row {row_name!r} has an unknown encoder.{nearest(merged['encoder'], encoders)}"
            )
        rows += [build_row(name, row_name, label, merged, encoders) for label in merged["published"]]
    return rows


def load_orders(name: str, rows: Sequence[Row]) -> list[Order]:
    """Return the orders that one table states about its rows."""
    return read_orders(name, load_yaml(props_dir() / FOLDER / f"{name}.yaml").get("orders", []), rows)


def build_row(table: str, name: str, label: str, given: dict[str, Any], encoders: dict[str, Any]) -> Row:
    """Return the Row of one data set of a table's line, defaults filled in."""
    data, metrics = dict(given["data"][label]), named_values(given["published"][label], given.get("metrics"))
    reasons = given.get("reasons", {}).get(label, {})
    hours = data.pop("hours") * max(1, len(given["seeds"])) + encoder_hours(given.get("encoder"), encoders)
    return Row(
        table=table,
        name=name,
        label=label,
        source=given["source"],
        unit=given["unit"],
        data=data,
        encoder=given.get("encoder"),
        model=given.get("model"),
        seeds=tuple(given["seeds"]),
        commands=tuple(single_command(table, name, entry) for entry in given["commands"]),
        published=metrics,
        reasons=dict.fromkeys(metrics, reasons) if isinstance(reasons, str) else reasons,
        tolerance=given["tolerance"],
        cost={"hours": round(hours, 3), "derived": given["cost"]["derived"]},
        checks=tuple(given["checks"]),
        note=given.get("note", ""),
        keys=given.get("keys", {}),
        x=given.get("x", {}),
    )


def encoder_hours(name: str | None, encoders: dict[str, Any]) -> float:
    """Return the hours of an encoder's pretraining and of those it starts from."""
    entry = encoders.get(name or "", {})
    base = str(entry.get("pretrain", {}).get("plm", ""))[1:-1]
    return entry.get("hours", 0) + (encoder_hours(base, encoders) if base in encoders else 0)


def single_command(table: str, name: str, entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return (command, keys) of one entry `{command: keys}`.

    Raises:
        InputError: a command that is not offered.
    """
    (command, keys), *more = entry.items()
    if more or command not in COMMANDS:
        raise InputError(f"{table}.yaml: {name!r} has {command!r}; known commands: {', '.join(COMMANDS)}")
    return command, keys


def named_values(values: dict[str, Any] | list, metrics: list[str] | None) -> dict[str, Any]:
    """Return metric -> value, from a mapping or from a list in the order of `metrics`."""
    if isinstance(values, dict):
        return dict(values)
    return dict(zip(metrics or (), values, strict=True))


def find_rows(spec: str) -> list[Row]:
    """Return the rows of ids joined by commas: tables, rows, first parts of a row's id, a pattern with `*`, or `all`.

    The id of an order, or its first parts, stands for its two rows.

    Raises:
        InputError: an unknown id; names the nearest.
    """
    tables = {name: load_table(name) for name in table_ids()}
    rows = [row for name in tables for row in tables[name]]
    orders = [order for name in tables for order in load_orders(name, tables[name])]
    chosen: dict[str, Row] = {}
    for wanted in [part for part in SEVERAL.split(str(spec)) if part]:
        named = [row for row in rows if is_named(row.id, wanted)]
        named += [row for order in orders if is_named(order.id, wanted) for row in (order.above, order.below)]
        if not named:
            known = [*tables, *(row.id.rsplit("/", 1)[0] for row in rows), *(row.id for row in rows)]
            raise InputError(
                f"unknown id {wanted!r}.{nearest(wanted, known)} Tables: {', '.join(tables)}; "
                "`recbole-blair reproduce --list` shows every row"
            )
        chosen.update((row.id, row) for row in named)
    if not chosen:
        raise InputError("no id given; `recbole-blair reproduce --list` shows them")
    return list(chosen.values())


def is_named(name: str, wanted: str) -> bool:
    """Tell whether an id is asked for: by itself, its first parts, `all`, or a pattern as in `table/*/data`."""
    return wanted in (ALL, name) or name.startswith(f"{wanted}/") or ("*" in wanted and fnmatchcase(name, wanted))


def find_orders(rows: Sequence[Row]) -> list[Order]:
    """Return the orders of which both rows are among these."""
    chosen, orders = {row.id for row in rows}, []
    for table in dict.fromkeys(row.table for row in rows):
        orders += [o for o in load_orders(table, load_table(table)) if {o.above.id, o.below.id} <= chosen]
    return orders
