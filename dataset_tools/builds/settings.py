"""The settings of a build: what decides its bytes, as `stats.json` records it, and the name that follows from them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from dataset_tools.conversion.own_limits import Limits, parse_instant
from dataset_tools.conversion.own_tables import REPEATED, TIME_UNITS, ItemRules
from dataset_tools.conversion.settings import BuildSettings, check_choice
from dataset_tools.raw.domains import PUBLISHED, check_name, is_sample, resolve_domain, sample_name, sample_sizes
from dataset_tools.raw.own_formats import ATOMIC, ENCODINGS, QUOTING, FileFormat
from recbole_blair.errors import InputError
from recbole_blair.schema import (
    ALIASES,
    MAX_HISTORY,
    SAMPLE,
    SPLIT_SEED,
    SPLIT_SHARES,
    TEST_START_MS,
    VALID_START_MS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SOURCES = ("csv", "jsonl", "parquet", "python", ATOMIC)
OWN_CHOICES = {
    "source": SOURCES, "items_source": SOURCES, "encoding": tuple(ENCODINGS), "items_encoding": tuple(ENCODINGS),
    "quoting": tuple(QUOTING), "repeated_items": REPEATED,
}  # fmt: skip


@dataclass(frozen=True)
class AmazonSettings(BuildSettings):
    """Settings of a build from raw files in the format of Amazon Reviews 2023: a published domain, the sample, others.

    Args:
        revision: hub version of the raw files.
        sample_users, sample_items: size of the generated dataset; None for any other.
    """

    revision: str = "main"
    sample_users: int | None = None
    sample_items: int | None = None

    @classmethod
    def resolve(
        cls,
        dataset: str,
        raw_dir: Path | str | None = None,
        builds: Callable[[], Sequence[str]] | None = None,
        **options: Any,
    ) -> AmazonSettings:
        """Return the settings of a dataset, defaults filled in.

        Args:
            dataset: official or short name, `sample`, `sample-u<users>-i<items>`, or the name of raw files of one's
                own below `raw_dir`.
            raw_dir: where raw files of an unpublished name may lie.
            builds: finds the names of the builds at hand, for the message about an unknown dataset.
            options: the other fields; no instants take the papers' for Amazon's domains.

        Raises:
            InputError: an unknown dataset, or settings that make no sense.
        """
        domain = resolve_domain(dataset, raw_dir, builds)
        users, items = sample_sizes(domain, options.pop("sample_users", None), options.pop("sample_items", None))
        if options.get("protocol", "timestamp") == "timestamp" and (domain in PUBLISHED or users):
            for key, default in (("valid_start_ms", VALID_START_MS), ("test_start_ms", TEST_START_MS)):
                options[key] = default if options.get(key) is None else options[key]
        if "revision" in options:
            options["revision"] = str(options["revision"])  # YAML reads a commit of digits as a number
        return cls(SAMPLE if users else domain, **options, sample_users=users, sample_items=items)

    @property
    def raw_name(self) -> str:
        """Return the name of the raw files: the domain, or the sample with its size."""
        if self.sample_users is None or self.sample_items is None:
            return self.dataset
        return sample_name(self.sample_users, self.sample_items)

    @property
    def build_name(self) -> str:
        """Return `<Domain>` or `<Domain>-<protocol>`, followed by a hash of the settings that are not default, if any.

        The default protocol is not named.
        """
        base = own_build_name(self.raw_name, self.protocol)
        random = self.protocol == "random"
        papers = self.protocol == "timestamp" and (self.dataset in PUBLISHED or self.sample_users is not None)
        defaults = {
            "valid_start_ms": VALID_START_MS if papers else None,
            "test_start_ms": TEST_START_MS if papers else None,
            "max_history": MAX_HISTORY,
            "ascii_text": False,
            "catalogue": "interactions",
            "core": "5-core",
            "keep_repeats": False,
            "revision": "main",
            "split_seed": SPLIT_SEED if random else None,
            "split_shares": SPLIT_SHARES if random else None,
        }
        other = {key: getattr(self, key) for key, default in defaults.items() if getattr(self, key) != default}
        if not other:
            return base
        return f"{base}-{hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class OwnSettings(BuildSettings):
    """Settings of a build from files of a shop or a public log.

    Args:
        source: format of files whose extensions do not tell; `python` reads JSON lines' files as Python literals;
            `atomic`: RecBole's `.inter` and `.item`.
        columns: `user_id=…,item_id=…,timestamp=…`; numbers from 1 for a CSV without header; a time in several columns
            is joined by `-`, as in `timestamp=year+month+day`.
        item_columns: `item_id=…,title=…` and any of features, categories, description, store, price. Fields that are
            not named take the column of their own name, where there is one. `a+b` joins columns, `a|b` takes the first
            that is not empty.
        timestamp_unit: ms, s, iso (`2018-07-07 22:09:11`, with or without T, zone or time), or a strptime format
            such as `%d.%m.%Y %H:%M`; UTC without zone.
        delimiter, encoding, quoting, header: of CSV files, see `FileFormat`.
        items_source, items_delimiter, items_encoding, items_header: the same of the items' file, where it differs; a
            header is never that of the interactions.
        list_separator, parse_lists, repeated_items: see `ItemRules`.
        missing_text: texts of items that mean "no value", joined by commas.
        titled_only, min_events, min_item_events: see `Limits`.
        events_from, events_until: first instant that is kept, first that is not; ISO dates, UTC without zone.

    Raises:
        InputError: a name of Amazon Reviews 2023, or a value that is not known.
    """

    source: str = "csv"
    columns: str | None = None
    item_columns: str | None = None
    timestamp_unit: str = "ms"
    list_separator: str | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"
    quoting: str = "double"
    header: str | None = None
    items_source: str | None = None
    items_delimiter: str | None = None
    items_encoding: str | None = None
    items_header: str | None = None
    parse_lists: bool = False
    missing_text: str | None = None
    repeated_items: str = "first"
    titled_only: bool = False
    min_events: int = 1
    min_item_events: int = 1
    events_from: str | None = None
    events_until: str | None = None

    def __post_init__(self) -> None:
        check_name(self.dataset)
        if self.dataset in (*PUBLISHED, *ALIASES) or is_sample(self.dataset):
            raise InputError(
                f"dataset={self.dataset} is a name of Amazon Reviews 2023 or the sample; give your data another"
            )
        for key, known in OWN_CHOICES.items():
            if getattr(self, key) is not None:
                check_choice(key, getattr(self, key), known)
        super().__post_init__()
        if "%" not in self.timestamp_unit:
            check_choice("timestamp_unit", self.timestamp_unit, TIME_UNITS)
        for key in ("delimiter", "list_separator", "items_delimiter", "header", "items_header", "missing_text"):
            if getattr(self, key) == "":
                raise InputError(f"{key} is empty; give a character such as ';', or leave the option out")
        for key in ("min_events", "min_item_events"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} is {getattr(self, key)}, expected 1 or more")
        window = self.limits
        if window.from_ms is not None and window.until_ms is not None and window.from_ms >= window.until_ms:
            raise InputError(f"events_from={self.events_from} is not before events_until={self.events_until}")

    @property
    def file_format(self) -> FileFormat:
        """Return how the interactions are written."""
        return FileFormat(self.source, self.delimiter, self.encoding, self.quoting, self.header)

    @property
    def items_format(self) -> FileFormat:
        """Return how the items' file is written."""
        return FileFormat(
            self.items_source or self.source, self.items_delimiter or self.delimiter,
            self.items_encoding or self.encoding, self.quoting, self.items_header,
        )  # fmt: skip

    @property
    def item_rules(self) -> ItemRules:
        """Return how items' rows become fields."""
        words = [word.strip() for word in (self.missing_text or "").split(",") if word.strip()]
        return ItemRules(self.list_separator, self.parse_lists, words, self.repeated_items)

    @property
    def limits(self) -> Limits:
        """Return what is left out."""
        first, after = (parse_instant(key, getattr(self, key)) for key in ("events_from", "events_until"))
        return Limits(first, after, self.titled_only, self.min_events, self.min_item_events)

    @property
    def build_name(self) -> str:
        """Return `<dataset>` or `<dataset>-<protocol>`."""
        return own_build_name(self.dataset, self.protocol)


AMAZON_KEYS = tuple(field.name for field in fields(AmazonSettings) if field.name != "dataset")
OWN_KEYS = tuple(field.name for field in fields(OwnSettings))


def own_build_name(dataset: str, protocol: str) -> str:
    """Return the folder and file prefix of a build whose other settings do not show in its name."""
    return dataset if protocol == "timestamp" else f"{dataset}-{protocol}"
