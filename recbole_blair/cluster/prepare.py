"""Convert many domains: one after the other, or a task each over a Ray cluster. A domain that fails stops no other.

A task is `dataset_tools.prepare.prepare` as on one machine: DuckDB inside, a folder under a temporary name, renamed
when whole. So the bytes are the same wherever it runs, and a task whose node is gone is simply done again elsewhere.
The raw files and `data_path` must be on storage that all nodes see under the same path.
"""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_blair.cluster.pool import first_line, refusal
from recbole_blair.errors import InputError
from recbole_blair.parallel.ray_cluster import RayOptions, node_resources, places
from recbole_blair.train.display import say

CPUS_A_TASK = 4  # of a domain, where --threads does not say
BESIDE_DUCKDB = 3 << 30  # bytes of a task beyond DuckDB's limit: events in NumPy, rows as text, other processes
MAX_RETRIES = 3  # of a task whose process or node was lost
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Outcome:
    """One domain's end: the line of Table 3, or the error and whether the user can fix it."""

    name: str
    line: str = ""
    error: str = ""
    fixable: bool = False


def prepare_each(names, options) -> Iterator[Outcome]:
    """Convert domains one after the other; yields an Outcome each.

    Args:
        names (list of str): official names.
        options (dict): of `dataset_tools.prepare.prepare`.
    """
    for name in names:
        yield convert_one(name, options)


def prepare_over_cluster(names, options, ray_options: RayOptions) -> Iterator[Outcome]:
    """Convert domains with a Ray task each; yields their Outcomes as they end.

    Args:
        names (list of str): official names.
        options (dict): of `dataset_tools.prepare.prepare`.
        ray_options (RayOptions): which cluster.

    Raises:
        InputError: no cluster at the address, or a task takes more than any node has.
    """
    options = {**options, "progress": False}
    for key in ("data_path", "raw_dir"):
        options[key] = str(Path(options[key]).absolute())
    with ray_options.open() as cluster:
        import ray

        each, at_once = task_resources(node_resources(), options)
        options["threads"] = each["CPU"]
        say(f"{cluster.describe()}; {min(at_once, len(names))} domains at a time, {each['CPU']} CPUs each")
        task = ray.remote(convert_task).options(
            num_cpus=each["CPU"], memory=each["memory"], max_retries=MAX_RETRIES, retry_exceptions=False
        )
        running = {task.remote(name, options): name for name in names}
        while running:
            (ref,), _ = ray.wait(list(running), num_returns=1)
            yield collect(ref, running.pop(ref), options)


def convert_one(name, options):
    """Convert a domain.

    Returns:
        Outcome: also of a failure, whatever it is; only an interruption goes through.
    """
    from dataset_tools.builds.build_stats import load_stats, table3_line
    from dataset_tools.prepare import prepare

    try:
        return Outcome(name, table3_line(load_stats(prepare(name, **options))))
    except InputError as error:
        return Outcome(name, error=str(error), fixable=True)
    except OSError as error:
        return Outcome(name, error=f"{error.strerror or error}: {error.filename or options['data_path']}", fixable=True)
    except Exception as error:
        return Outcome(name, error=f"{type(error).__name__}: {first_line(error)}")


def convert_task(name, options):
    """Convert a domain in a task; returns (node, Outcome)."""
    from recbole_blair.schema import VERSION

    return socket.gethostname(), VERSION, convert_one(name, options)


def collect(ref, name, options):
    """Return a finished task's Outcome, once its files are seen from here."""
    import ray

    from dataset_tools.builds.build_stats import load_stats
    from dataset_tools.prepare import build_name_of, build_settings
    from recbole_blair.schema import VERSION

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
    folder = Path(options["data_path"]) / build_name_of(build_settings(name, **settings_of(options)))
    if load_stats(folder) is None:
        unseen = f"node {node} wrote {folder}, which is not seen from here; put --data_path on storage all nodes share"
        return Outcome(name, error=unseen, fixable=True)
    return outcome


def settings_of(options):
    """Return the options that decide what a build holds, as `build_settings` takes them."""
    others = ("data_path", "memory_limit", "threads", "progress", "dry_run")
    return {key: value for key, value in options.items() if key not in others}


def task_resources(nodes, options):
    """Return what a task takes, {"CPU", "memory"}, and how many run at once.

    Raises:
        InputError: no node has as much.
    """
    cpus = int(max((node.get("CPU", 0) for node in nodes), default=0))
    each = {"CPU": options["threads"] or max(1, min(CPUS_A_TASK, cpus))}
    if each["CPU"] > cpus:
        raise InputError(f"--threads={each['CPU']}, but the largest node has {cpus} CPUs; lower it")
    each["memory"] = parse_bytes(options["memory_limit"]) + BESIDE_DUCKDB
    at_once = places(nodes, **each)
    if not at_once:
        most = max((node.get("memory", 0) for node in nodes), default=0)
        raise InputError(
            f"--memory_limit={options['memory_limit']} and {BESIDE_DUCKDB >> 30} GiB beside it are more than a node "
            f"has to give ({most / 2**30:.1f} GiB); lower it"
        )
    return each, at_once


def parse_bytes(text):
    """Return the bytes of DuckDB's sizes: 4GB, 512MB, 2GiB.

    Raises:
        InputError: something else.
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?)B?\s*", str(text), re.IGNORECASE)
    if not match or match[1].count(".") > 1 or match[1] == ".":
        raise InputError(f"--memory_limit={text} is no size; write it as 2GB or 512MB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2].upper()])


def report(outcomes, total):
    """Print each domain's line as it comes, and at the end the failures.

    Returns:
        int: exit status: 0; 2 when all that failed can be fixed by the user; 1.
    """
    import sys

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
