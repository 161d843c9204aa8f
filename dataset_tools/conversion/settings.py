"""What the conversion reads of a build's settings."""

from __future__ import annotations

from typing import Protocol


class ConversionSettings(Protocol):
    """The settings that decide what the data files hold; `dataset_tools.builds` says what each means.

    `protocol` is timestamp or last_out; an instant that is None comes from 8:1:1 over all interactions; `max_history`
    is the longest history of a row, in items; `catalogue` is interactions (the items of the rows) or all.
    """

    @property
    def protocol(self) -> str: ...
    @property
    def valid_start_ms(self) -> int | None: ...
    @property
    def test_start_ms(self) -> int | None: ...
    @property
    def max_history(self) -> int: ...
    @property
    def ascii_text(self) -> bool: ...
    @property
    def catalogue(self) -> str: ...
