"""The settings of a build that the conversion reads, whatever the rows come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError, nearest
from recbole_blair.schema import MAX_HISTORY, PROTOCOLS, SPLIT_SEED, SPLIT_SHARES, SPLITS, VALID_START_MS, format_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

CATALOGUES = ("interactions", "all")
CORES = ("5-core", "users")


@dataclass(frozen=True)
class BuildSettings:
    """What decides the bytes of a build; `dataset_tools.builds.settings` adds what its rows come from.

    Args:
        dataset: official name of the domain, `sample`, or the name of data of one's own.
        protocol: `timestamp`, `last_out` or `random`.
        core: of `last_out`: `5-core`, or `users`, who need five events whose items have metadata; items need none.
        keep_repeats: keep a user's later events with an item; else the first alone.
        valid_start_ms, test_start_ms: first instants of validation and of test, Unix ms; None takes 8:1:1 over all
            interactions.
        split_seed, split_shares: of the random protocol alone: seed of the shuffle, whole-number shares of train, valid
            and test; None takes 101 and 4:3:3.
        max_history: latest items kept as a row's history.
        ascii_text: replace non-ASCII characters of item texts by spaces, as the released code does.
        catalogue: `interactions` keeps the items that occur in a row, `all` adds the rest with metadata.

    Raises:
        InputError: an unknown protocol, core or catalogue, or a core that nothing asks for; instants out of order; a
            history without an item.
    """

    dataset: str
    protocol: str = "timestamp"
    valid_start_ms: int | None = None
    test_start_ms: int | None = None
    max_history: int = MAX_HISTORY
    ascii_text: bool = False
    catalogue: str = "interactions"
    core: str = "5-core"
    keep_repeats: bool = False
    split_seed: int | None = None
    split_shares: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, PROTOCOLS)
        check_choice("catalogue", self.catalogue, CATALOGUES)
        check_choice("core", self.core, CORES)
        if self.core != "5-core" and self.protocol != "last_out":
            raise InputError(f"core={self.core} is of protocol=last_out; protocol={self.protocol} has no core")
        if self.max_history < 1:
            raise InputError(f"max_history is {self.max_history}, expected 1 or more; 50 is the papers' value")
        if self.protocol != "timestamp" and (self.valid_start_ms is not None or self.test_start_ms is not None):
            raise InputError(f"protocol={self.protocol} has no instants; leave out valid_start_ms and test_start_ms")
        check_instants(self.valid_start_ms, self.test_start_ms)
        self.resolve_random_split()

    def resolve_random_split(self) -> None:
        """Fill in the seed and the shares of the random protocol; refuse them under any other."""
        given = [key for key in ("split_seed", "split_shares") if getattr(self, key) is not None]
        if self.protocol != "random":
            if given:
                raise InputError(f"{given[0]} is for protocol=random; with protocol={self.protocol} leave it out")
            return
        if self.keep_repeats:
            raise InputError("protocol=random splits distinct (user, item) pairs; leave out keep_repeats")
        seed = SPLIT_SEED if self.split_seed is None else self.split_seed
        shares = SPLIT_SHARES if self.split_shares is None else tuple(self.split_shares)
        if len(shares) != len(SPLITS) or not all(isinstance(share, int) and share > 0 for share in shares):
            raise InputError(f"split_shares={list(shares)} must be three whole numbers above 0, as in 4,3,3")
        object.__setattr__(self, "split_seed", seed)  # the dataclass is frozen
        object.__setattr__(self, "split_shares", shares)

    @property
    def build_name(self) -> str:
        """Return the folder below `data_path` and the prefix of its files."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the settings as `stats.json` holds them."""
        values = asdict(self)
        if self.protocol != "random":
            return {key: value for key, value in values.items() if not key.startswith("split_")}
        return {**values, "split_shares": list(values["split_shares"])}


def check_choice(key: str, value: object, known: Sequence[str]) -> None:
    """Refuse a value that is not one of `known`, naming the nearest."""
    if value not in known:
        raise InputError(f"unknown {key} {value!r}; known: {', '.join(known)}.{nearest(str(value), known)}")


def check_instants(valid_start_ms: int | None, test_start_ms: int | None) -> None:
    """Refuse instants that are out of order or in seconds; None means "from the data"."""
    for key, value in (("valid_start_ms", valid_start_ms), ("test_start_ms", test_start_ms)):
        if value is not None and (not isinstance(value, int) or value <= 10**11):
            raise InputError(f"{key} is {value!r}, expected Unix milliseconds such as {VALID_START_MS}")
    if valid_start_ms is not None and test_start_ms is not None and valid_start_ms >= test_start_ms:
        raise InputError(
            f"valid_start_ms {format_ms(valid_start_ms)} is not before test_start_ms {format_ms(test_start_ms)}; "
            "swap or correct them"
        )
