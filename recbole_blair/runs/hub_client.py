"""The hub's client: names of repositories, and its errors as one line."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.text.hub import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"
BRANCH = re.compile(r"\w[\w./-]{0,200}", re.ASCII)
REASONS = {  # by the status of the hub's answer
    401: f"the hub refuses it (401): no such repository, a private one, or a wrong token; check the name, {LOG_IN}",
    403: f"the token may not do that (403); {LOG_IN} to one with write access to this organisation",
    404: f"there is no such repository or revision, or it is private (404); check the name, {LOG_IN}",
}


def check_repo(repo: str, flag: str = "--repo") -> str:
    """Return a repository's name.

    Raises:
        InputError: it is not `organisation/name` with the letters that the hub takes.
    """
    # heavy: the hub's client
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{flag}={repo[:200]}: {first_line(error)} Expected organisation/name") from None
    if repo.count("/") != 1:
        raise InputError(f"{flag}={repo[:200]}: expected organisation/name")
    return repo


def check_branch(revision: str | None) -> str | None:
    """Return the name of a branch, or None.

    Raises:
        InputError: it is no name of a branch, or a commit.
    """
    if revision is not None and (not BRANCH.fullmatch(revision) or ".." in revision):
        raise InputError(f"--revision={revision[:200]}: expected the name of a branch, as in main or v2")
    return revision


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the errors of the hub's client into one line that begins with `what`; no header and no token is in it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        raise InputError(f"{what}: {reason}") from None


def explain(error: BaseException) -> str | None:
    """Return why the hub did not do something; None when the error is about something else."""
    # heavy: the hub's client
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return REASONS.get(status, f"the hub answered {status} ({first_line(error)}); try again later")
    if isinstance(error, LocalEntryNotFoundError):
        told = explain(error.__cause__) if error.__cause__ is not None else None
        return f"it is not in the cache, and {told or 'the hub was not asked'}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, HFValidationError):
        return first_line(error)
    if type(error).__module__.split(".")[0].startswith("httpx") or isinstance(error, (ConnectionError, TimeoutError)):
        return f"no answer from the hub ({first_line(error)}); check the network, then run the same command again"
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # of one of several uploads at a time
        return explain(error.__cause__)
    if isinstance(error, (RuntimeError, ValueError)) or (isinstance(error, OSError) and error.errno is None):
        return f"{first_line(error)}; run the same command again"
    return None
