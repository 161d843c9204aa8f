"""Connects to a Ray cluster or starts a small one here: quiet, no usage reports, and nothing is left running.

What uses Ray (sweeps; encoding, conversion and training over a cluster) enters `ray_cluster(...)` once and leaves the
rest to Ray's own interface. Ray is imported here only when it is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.config.kinds import usable_cores
from recbole_blair.errors import InputError, require
from recbole_blair.parallel.environment import NO_AVX512, missing_variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import ModuleType

OBJECT_STORE_MB = 256  # of a cluster started here: data is memory-mapped from its files, not put into the store
LONGEST_TEMP_DIR = 40  # characters: Ray makes sockets below it, and a socket's path has at most 107
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # Ray Tune: workers stay in the driver's folder, so relative paths hold
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # who asked for no GPU sees none
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
# On a machine with other work to do, Ray's helpers start slowly; its own limits (30 s, 60 s) would end them.
# Its workers would run at niceness 15, behind everything else on the machine: a sweep beside a run would starve.
PATIENT = {
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_worker_niceness": "0",
}
PROBE_S = 10.0  # for a cluster's port to answer; Ray itself would try for many minutes
ATTEMPTS = 3  # to start Ray here: it gives up after 30 s, which nothing can change


@dataclass(frozen=True)
class Cluster:
    """What a cluster has: CPUs, GPUs, nodes; `started_here` says whether it ends with this process."""

    cpus: float
    gpus: float
    nodes: int
    started_here: bool

    def describe(self) -> str:
        """One line for the screen."""
        where = "started here" if self.started_here else f"{self.nodes} node(s)"
        return f"Ray {where}: {self.cpus:g} CPUs, {self.gpus:g} GPUs"


@dataclass(frozen=True)
class RayOptions:
    """Which Ray is used: see `ray_cluster`."""

    address: str | None = None
    cpus: int | None = None
    report_usage: bool = False

    def open(self, **more: Any) -> AbstractContextManager[Cluster]:
        """Enter the cluster; `more` are arguments of `ray_cluster`."""
        return ray_cluster(self.address, self.cpus, report_usage=self.report_usage, **more)


def node_resources() -> list[dict[str, float]]:
    """Return what each node that is alive has: dicts of `CPU`, `GPU`, `memory` (bytes) and what else Ray counts."""
    return [node["Resources"] for node in import_ray().nodes() if node["Alive"]]


def places(nodes: Sequence[Mapping[str, float]], **each: float) -> int:
    """Count the processes that fit, each on one node.

    Args:
        nodes: of `node_resources`.
        **each: what a process takes, as in CPU=2, GPU=1.

    """
    wanted = {name: amount for name, amount in each.items() if amount}
    return sum(int(min(node.get(name, 0) // amount for name, amount in wanted.items())) for node in nodes)


def cpus_that_fit(nodes: Sequence[Mapping[str, float]], processes: int) -> int:
    """Return the most whole CPUs that each of `processes` can have, each on one node; 0 when not even one fits."""
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    return next((cpus for cpus in range(most, 0, -1) if places(nodes, CPU=cpus) >= processes), 0)


def local_cpus() -> int:
    """Return the CPUs this process may use."""
    return usable_cores()


def local_gpus() -> int:
    """CUDA devices visible to this process; creates no context on them."""
    import torch  # heavy: not needed by most who ask for Ray

    return torch.cuda.device_count()


def import_ray() -> ModuleType:
    """Return the ray module.

    Raises:
        InputError: it is not installed.
    """
    require("a cluster", "ray")
    import ray  # heavy, and an extra

    return ray


@contextlib.contextmanager
def ray_cluster(
    address: str | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    *,
    object_store_mb: int = OBJECT_STORE_MB,
    report_usage: bool = False,
) -> Iterator[Cluster]:
    """Connect to Ray, or start it here, for the length of a `with`.

    A cluster started here ends with it, and also when this process is killed. One that was running goes on. In a
    process that is connected to Ray already, that connection is used and left as it is.

    Args:
        address: `auto`, `host:port` or `ray://host:port`; None starts one on this machine.
        cpus, gpus: what a cluster started here offers; None: what this process may use.
        object_store_mb: shared memory of a cluster started here.
        report_usage: let Ray send its usage statistics.

    Yields:
        Cluster

    Raises:
        InputError: Ray is not installed, does not start here, or there is no cluster at the address.
    """
    quiet = {**QUIET, "RAY_USAGE_STATS_ENABLED": str(int(report_usage))}
    with environment({**quiet, **PATIENT, **missing_variables(os.environ)}):
        ray = import_ray()
        if ray.is_initialized():
            yield describe(ray, started_here=False)
            return
        temp_dir = None if address else short_temp_dir()
        try:
            with quiet_logs():
                connect(ray, address, cpus, gpus, object_store_mb, temp_dir)
                yield describe(ray, started_here=address is None)
        finally:
            ray.shutdown()
            if temp_dir:
                end_processes_of(temp_dir)
                shutil.rmtree(temp_dir, ignore_errors=True)


def connect(
    ray: Any, address: str | None, cpus: int | None, gpus: int | None, object_store_mb: int, temp_dir: str | None
) -> None:
    """Call ray.init, which is not the same for a cluster that runs and for one to start."""
    common = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    if address:
        try:
            probe(address)
            variables = missing_variables(NO_AVX512)  # those nodes may have another processor
            ray.init(address, runtime_env={"env_vars": variables}, **common)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"no Ray cluster answers at ray_address={address} ({' '.join(str(error).split())[:160]}); start one "
                "with `ray start --head`, or leave ray_address empty to start one here"
            ) from error
        return
    own = {
        "num_cpus": local_cpus() if cpus is None else cpus, "num_gpus": local_gpus() if gpus is None else gpus,
        "object_store_memory": object_store_mb << 20, "include_dashboard": False, "_temp_dir": temp_dir,
    }  # fmt: skip
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init("local", **own, **common)
            return
        except Exception as error:
            ray.shutdown()
            end_processes_of(temp_dir)  # a start that failed leaves what it had begun
            if "timed out during startup" not in str(error):
                raise
            if attempt == ATTEMPTS:
                raise InputError(
                    f"Ray did not start here in {ATTEMPTS} attempts of half a minute: the machine is busy with other "
                    "work; try again when it is less so, or name a cluster that runs by ray_address"
                ) from error


def probe(address: str) -> None:
    """Knock at the port of `host:port` or `ray://host:port`; other addresses are left to Ray.

    Raises:
        OSError: nobody is there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()


def end_processes_of(temp_dir: str | None) -> None:
    """Kill the processes of a Ray that was started here; each names its folder, which nobody else has."""
    import psutil  # only where a Ray that was started here ends

    for process in psutil.process_iter(["cmdline"]):
        if any(f"{temp_dir}/session" in word for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                process.kill()


def describe(ray: Any, started_here: bool) -> Cluster:
    """Ask Ray what it has."""
    total = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return Cluster(total.get("CPU", 0.0), total.get("GPU", 0.0), nodes, started_here)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which Ray's processes inherit, and put the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Ray's loggers say nothing: what fails raises, and a trial's error is in its own folder and in our lines."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)


def short_temp_dir() -> str:
    """A new folder with a path short enough for Ray's sockets."""
    base = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="rb-", dir=base if len(base) <= LONGEST_TEMP_DIR else str(Path("/tmp")))
