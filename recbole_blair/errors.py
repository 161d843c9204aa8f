"""The one exception that means "the user can fix this": printed as a single line, exit status 2."""

import difflib


class InputError(ValueError):
    """Wrong use or wrong input. The message says what was found, what was expected, where, and the fix."""


def nearest(name, known):
    """Return ` Did you mean X?` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
