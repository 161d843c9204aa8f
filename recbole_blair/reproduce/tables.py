"""The tables to reproduce: YAML files read into rows that lack nothing, and found by their ids."""

import re
from dataclasses import dataclass, field

from recbole_blair.config import load_yaml
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir

FOLDER = "reproduce"
NOT_TABLES = ("encoders", "smoke")
ALL = "all"
COMMANDS = ("prepare", "stats", "pairs", "pools", "train", "pretrain", "search")
UNITS = {"per cent": 100, "fraction": 1, "count": 1}  # what our numbers are multiplied by
NEEDED = ("published", "commands", "tolerance", "checks")
SEVERAL = re.compile(r"[,\s]+")


@dataclass(frozen=True)
class Row:
    """One line of a table on one data set: what is run, what the source says, how near is near enough."""

    table: str
    name: str
    label: str  # of the data
    source: str
    unit: str
    data: dict  # `dataset` and what else the commands name
    encoder: str | None
    model: str | None
    seeds: tuple
    commands: tuple  # of (command, keys with placeholders), the last one is measured
    published: dict  # metric -> value in `unit`, None: not legible
    reasons: dict  # metric -> why it cannot be compared
    tolerance: dict  # relative, absolute, why
    cost: dict  # hours on one A100 or H200, derived
    checks: tuple  # what --scale=smoke asserts
    note: str = ""
    keys: dict = field(default_factory=dict)

    @property
    def id(self):
        """Return `<table>/<name>/<data>`."""
        return f"{self.table}/{self.name}/{self.label}"

    def scope(self):
        """Return what placeholders of the commands may name."""
        return {**self.data, "model": self.model, "encoder": self.encoder, "seeds": list(self.seeds) or None}


def table_ids():
    """Return the ids of all tables: the names of their files."""
    found = (path.stem for path in (props_dir() / FOLDER).glob("*.yaml"))
    return sorted(name for name in found if name not in NOT_TABLES)


def load_encoders():
    """Return the encoders that rows name."""
    return load_yaml(props_dir() / FOLDER / "encoders.yaml")


def load_smoke():
    """Return the settings of --scale=smoke."""
    return load_yaml(props_dir() / FOLDER / "smoke.yaml")


def load_table(name):
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


def build_row(table, name, label, given, encoders):
    """Return the Row of one data set of a table's line, defaults filled in."""
    data = dict(given["data"][label])
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
        published=named_values(given["published"][label], given.get("metrics")),
        reasons=given.get("reasons", {}).get(label, {}),
        tolerance=given["tolerance"],
        cost={"hours": round(hours, 3), "derived": given["cost"]["derived"]},
        checks=tuple(given["checks"]),
        note=given.get("note", ""),
        keys=given.get("keys", {}),
    )


def encoder_hours(name, encoders):
    """Return the hours of an encoder's pretraining and of those it starts from."""
    entry = encoders.get(name, {})
    base = str(entry.get("pretrain", {}).get("plm", ""))[1:-1]
    return entry.get("hours", 0) + (encoder_hours(base, encoders) if base in encoders else 0)


def single_command(table, name, entry):
    """Return (command, keys) of one entry `{command: keys}`.

    Raises:
        InputError: a command that is not offered.
    """
    (command, keys), *more = entry.items()
    if more or command not in COMMANDS:
        raise InputError(f"{table}.yaml: {name!r} has {command!r}; known commands: {', '.join(COMMANDS)}")
    return command, keys


def named_values(values, metrics):
    """Return metric -> value, from a mapping or from a list in the order of `metrics`."""
    if isinstance(values, dict):
        return dict(values)
    return dict(zip(metrics, values, strict=True))


def find_rows(spec):
    """Return the rows of ids joined by commas: tables, rows, the first parts of a row's id, or `all`.

    Raises:
        InputError: an unknown id; names the nearest.
    """
    tables = {name: load_table(name) for name in table_ids()}
    rows = [row for name in tables for row in tables[name]]
    chosen: dict[str, Row] = {}
    for wanted in [part for part in SEVERAL.split(str(spec)) if part]:
        found = [row for row in rows if wanted in (ALL, row.id) or row.id.startswith(f"{wanted}/")]
        if not found:
            known = [*tables, *(row.id.rsplit("/", 1)[0] for row in rows), *(row.id for row in rows)]
            raise InputError(
                f"unknown id {wanted!r}.{nearest(wanted, known)} Tables: {', '.join(tables)}; "
                "`recbole-blair reproduce --list` shows every row"
            )
        chosen.update((row.id, row) for row in found)
    if not chosen:
        raise InputError("no id given; `recbole-blair reproduce --list` shows them")
    return list(chosen.values())
