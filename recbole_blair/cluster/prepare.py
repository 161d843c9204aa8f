"""Convert many domains: one after the other, or a task each over a Ray cluster. A domain that fails stops no other.

A task is `dataset_tools.prepare.prepare` as on one machine: DuckDB inside, a folder under a temporary name, renamed
when whole. So the bytes are the same wherever it runs, and a task whose node is gone is simply done again elsewhere.
The raw files and `data_path` must be on storage that all nodes see under the same path.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.builds.statistics_file import load_stats, require_stats, table3_line
from dataset_tools.prepare import prepare_build
from dataset_tools.storage.resources import Resources, parse_bytes
from recbole_blair.cluster.pool import first_line, refusal
from recbole_blair.errors import InputError
from recbole_blair.parallel.ray_cluster import RayOptions, node_resources, places
from recbole_blair.schema import VERSION
from recbole_blair.train.display import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dataset_tools.builds.settings import AmazonSettings

CPUS_PER_TASK = 4  # of a domain, where --threads does not say
BESIDE_DUCKDB = 3 << 30  # bytes of a task beyond DuckDB's limit: events in NumPy, rows as text, other processes
MAX_RETRIES = 3  # of a task whose process or node was lost


@dataclass(frozen=True)
class Outcome:
    """One domain's end: the line of Table 3, or the error and whether the user can fix it."""

    name: str
    line: str = ""
    error: str = ""
    fixable: bool = False


@dataclass(frozen=True)
class Workplace:
    """Where builds are made, and what each may use; the folders must be seen from all nodes."""

    data_path: str
    raw_dir: str
    resources: Resources
    force: bool = False  # build again, whatever is there


def prepare_each(builds: Sequence[AmazonSettings], workplace: Workplace) -> Iterator[Outcome]:
    """Convert domains one after the other; yields the Outcome of each."""
    for settings in builds:
        yield convert_one(settings, workplace)


def prepare_over_cluster(
    builds: Sequence[AmazonSettings], workplace: Workplace, ray_options: RayOptions
) -> Iterator[Outcome]:
    """Convert domains with a Ray task each; yields their Outcomes as they end.

    Args:
        builds: what to make.
        workplace: where; without `threads` a task takes `CPUS_PER_TASK`.
        ray_options: which cluster.

    Raises:
        InputError: no cluster at the address, or a task takes more than any node has.
    """
    with ray_options.open() as cluster:
        import ray  # heavy

        each, at_once = task_resources(node_resources(), workplace.resources)
        workplace = Workplace(
            str(Path(workplace.data_path).absolute()),
            str(Path(workplace.raw_dir).absolute()),
            replace(workplace.resources, threads=each["CPU"], progress=False),
        )
        say(f"{cluster.describe()}; {min(at_once, len(builds))} domains at a time, {each['CPU']} CPUs each")
        task = ray.remote(convert_task).options(
            num_cpus=each["CPU"], memory=each["memory"], max_retries=MAX_RETRIES, retry_exceptions=False
        )
        running = {task.remote(settings, workplace): settings for settings in builds}
        while running:
            (ref,), _ = ray.wait(list(running), num_returns=1)
            yield collect(ref, running.pop(ref), workplace)


def convert_one(settings: AmazonSettings, workplace: Workplace) -> Outcome:
    """Convert a domain.

    Returns:
        The Outcome, also of a failure, whatever it is; only an interruption goes through.
    """
    name = settings.raw_name
    try:
        folder = prepare_build(settings, workplace.data_path, workplace.raw_dir, workplace.resources, workplace.force)
        return Outcome(name, table3_line(require_stats(folder)))
    except InputError as error:
        return Outcome(name, error=str(error), fixable=True)
    except OSError as error:
        where = error.filename or workplace.data_path
        return Outcome(name, error=f"{error.strerror or error}: {where}", fixable=True)
    except Exception as error:
        return Outcome(name, error=f"{type(error).__name__}: {first_line(error)}")


def convert_task(settings: AmazonSettings, workplace: Workplace) -> tuple[str, str, Outcome]:
    """Convert a domain in a task; returns (node, version of this project there, Outcome)."""
    return socket.gethostname(), VERSION, convert_one(settings, workplace)


def collect(ref: Any, settings: AmazonSettings, workplace: Workplace) -> Outcome:
    """Return a finished task's Outcome, once its files are seen from here."""
    import ray  # heavy

    name = settings.raw_name
    try:
        node, tool, outcome = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        return Outcome(name, error=first_line(refusal(error)))
    except ray.exceptions.RayError as error:
        return Outcome(
            name, error=f"lost {MAX_RETRIES + 1} times with its process ({first_line(error)}); out of memory?"
        )
    if outcome.error:
        return Outcome(name, error=f"on node {node}: {outcome.error}", fixable=outcome.fixable)
    if tool != VERSION:
        return Outcome(name, error=f"node {node} has recbole_blair {tool}, this machine {VERSION}", fixable=True)
    folder = Path(workplace.data_path) / settings.build_name
    if load_stats(folder) is None:
        unseen = f"node {node} wrote {folder}, which is not seen from here; put --data_path on storage all nodes share"
        return Outcome(name, error=unseen, fixable=True)
    return outcome


def task_resources(nodes: Sequence[dict[str, float]], resources: Resources) -> tuple[dict[str, int], int]:
    """Return what a task takes, {"CPU", "memory"}, and how many run at once.

    Raises:
        InputError: no node has as much.
    """
    cpus = int(max((node.get("CPU", 0) for node in nodes), default=0))
    each = {"CPU": resources.threads or max(1, min(CPUS_PER_TASK, cpus))}
    if each["CPU"] > cpus:
        raise InputError(f"--threads={each['CPU']}, but the largest node has {cpus} CPUs; lower it")
    each["memory"] = parse_bytes(resources.memory_limit) + BESIDE_DUCKDB
    at_once = places(nodes, **each)
    if not at_once:
        most = max((node.get("memory", 0) for node in nodes), default=0)
        raise InputError(
            f"--memory_limit={resources.memory_limit} and {BESIDE_DUCKDB >> 30} GiB beside it are more than a node "
            f"has to give ({most / 2**30:.1f} GiB); lower it"
        )
    return each, at_once


def report(outcomes: Iterable[Outcome], total: int) -> int:
    """Print each domain's line as it comes, and at the end the failures.

    Returns:
        Exit status: 0; 2 when all that failed can be fixed by the user; 1.
    """
    failed = []
    for outcome in outcomes:
        if outcome.error:
            failed.append(outcome)
            print(f"error: {outcome.name}: {' '.join(outcome.error.split())}", file=sys.stderr)
        else:
            print(outcome.line, flush=True)
    if not failed:
        return 0
    names = ", ".join(outcome.name for outcome in failed)
    print(
        f"error: {len(failed)} of {total} datasets failed: {names}; the same command makes these alone", file=sys.stderr
    )
    return 2 if all(outcome.fixable for outcome in failed) else 1
