"""Fast or plain: which form of every operation runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from recbole_blair.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")
OPS = ("fast", "plain")
FORMS: dict[str, tuple[Callable, Callable]] = {}  # name of an operation: its plain form, its fast form
_chosen = OPS[0]


class use_ops:
    """Choose the form of every operation in this process, at once; as a context manager, until its end.

    Args:
        name: fast, or plain: the definitions of ops/plain.py, equal up to rounding and to what is drawn at random.

    Raises:
        InputError: another name.
    """

    def __init__(self, name: str) -> None:
        global _chosen
        if name not in OPS:
            raise InputError(f"ops={name!r} is not one of {', '.join(OPS)}")
        self.before, _chosen = _chosen, name

    def __enter__(self) -> None:
        """The choice is made already."""

    def __exit__(self, *error: object) -> None:
        global _chosen
        _chosen = self.before


def plain_ops() -> bool:
    """True after `use_ops("plain")`."""
    return _chosen == "plain"


def fast_form_of(plain: Callable[P, R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a fast form: what is called runs `plain` where that was chosen, else the decorated function."""

    def decorate(fast: Callable[P, R]) -> Callable[P, R]:
        FORMS[fast.__name__] = plain, fast

        @functools.wraps(fast)
        def operation(*args: P.args, **options: P.kwargs) -> R:
            return (plain if plain_ops() else fast)(*args, **options)

        return operation

    return decorate
