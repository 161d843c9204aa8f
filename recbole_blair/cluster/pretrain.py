"""Pretraining over a Ray cluster: Ray Train starts the processes that torchrun would, the loop is pretrain/run.py's.

Ray Train joins the processes into one group and, when one is lost, starts them all again; the loop then resumes from
its last whole checkpoint in `output_dir`, as after any kill. `output_dir` and the pairs must be on storage that all
nodes see under the same path.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_blair.cluster.pool import first_line
from recbole_blair.errors import InputError
from recbole_blair.files.own_json import read_own_json
from recbole_blair.parallel.distributed import WAIT
from recbole_blair.parallel.ray_cluster import RayOptions, cpus_that_fit, environment, node_resources, places
from recbole_blair.pretrain.results import METRICS, STATE_DIR
from recbole_blair.pretrain.run import check_folder, pretrain
from recbole_blair.pretrain.settings import Settings
from recbole_blair.train.display import say

MAX_FAILURES = 3  # times the processes are started again after one was lost
RAY = ".ray"  # what Ray Train writes for itself, below <output_dir>/pretraining; deleted at the end
PATHS = ("pairs", "output_dir", "pairs_path", "raw_dir")  # made absolute: workers run in other folders
FOLLOW_S = 1.0
PATIENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"}  # of Ray's 60: busy machines import slowly


def pretrain_over_cluster(settings: Settings, num_workers: int, ray_options: RayOptions) -> dict[str, Any]:
    """Train as `pretrain.run.pretrain` does, in `num_workers` processes of a Ray cluster.

    Args:
        settings: of `pretrain`.
        num_workers: processes, one per GPU where the cluster has GPUs; each has `per_device_batch` pairs per step.
        ray_options: which cluster.

    Returns:
        dict: metrics.json.

    Raises:
        InputError: as `pretrain`; no cluster at the address, more workers than fit, storage that is not shared.
    """
    if num_workers < 1:
        raise InputError(f"--num_workers={num_workers} must be at least 1")
    settings = Settings({**settings, **{key: absolute(settings[key]) for key in PATHS}})
    folder = Path(settings.output_dir)
    done = check_folder(folder, settings)
    if done is not None:
        return done
    with environment(PATIENT), ray_options.open() as cluster:
        each = worker_resources(node_resources(), settings.device, num_workers)
        say(f"{cluster.describe()}; {num_workers} workers with {each['GPU']} GPU, {each['CPU']} CPUs each")
        with follow_log(folder / STATE_DIR / "log.txt", settings.show_progress):
            run_workers(settings, num_workers, each, folder / STATE_DIR / RAY)
    metrics = folder / STATE_DIR / METRICS
    if not metrics.is_file():
        raise InputError(
            f"the workers are through, but {metrics} is not seen from here; put --output_dir on storage all nodes share"
        )
    return read_own_json(metrics, "a pretraining's results", "delete it, and the same command makes it again")


def absolute(path: str | None) -> str | None:
    """Return a path as an absolute one; None stays None."""
    return None if path is None else str(Path(path).expanduser().absolute())


def worker_resources(nodes: Sequence[dict[str, float]], device: str, num_workers: int) -> dict[str, int]:
    """Return what each worker takes: {"CPU", "GPU"}.

    Raises:
        InputError: the workers do not fit.
    """
    gpus = sum(node.get("GPU", 0) for node in nodes)
    cpus = sum(node.get("CPU", 0) for node in nodes)
    if device == "cuda" and not gpus:
        raise InputError("--device=cuda, but the cluster has no GPU; use --device=auto or cpu")
    if gpus and device != "cpu":
        each = {"CPU": 1, "GPU": 1}
        fits = places(nodes, **each) >= num_workers
    else:
        each = {"CPU": cpus_that_fit(nodes, num_workers), "GPU": 0}
        fits = each["CPU"] > 0
    if not fits:
        raise InputError(
            f"--num_workers={num_workers} do not fit: each takes a CPU{' and a GPU' if each['GPU'] else ''}; there are "
            f"{len(nodes)} node(s) with {cpus:g} CPUs, {gpus:g} GPUs; lower it"
        )
    return each


def run_workers(settings: Settings, num_workers: int, each: dict[str, int], storage: Path) -> None:
    """Run Ray Train until the workers are through.

    Raises:
        InputError: what a worker refused.
        RuntimeError: workers failed once more than they may.
    """
    import ray  # heavy
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    verdict: Any = ray.remote(Verdict).options(num_cpus=0).remote()
    config = {"settings": dict(settings), "cwd": os.getcwd(), "cpus": each["CPU"], "verdict": verdict}
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config,
        torch_config=TorchConfig(timeout_s=int(WAIT.total_seconds())),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=bool(each["GPU"]), resources_per_worker=each),
        run_config=RunConfig(
            name="pretraining", storage_path=str(storage), failure_config=FailureConfig(max_failures=MAX_FAILURES)
        ),
    )
    storage.mkdir(parents=True, exist_ok=True)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        refused = ray.get(verdict.read.remote())
        if refused is None:
            raise RuntimeError(f"the workers failed {MAX_FAILURES + 1} times; the last: {first_line(error)}") from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    refused = ray.get(verdict.read.remote())
    if refused is not None:
        raise InputError(refused)


class Verdict:
    """Holds the InputError of a worker: started again, the workers would raise it again."""

    def __init__(self) -> None:
        self.message: str | None = None

    def write(self, message: str) -> None:
        """Keep the first message."""
        self.message = self.message or message

    def read(self) -> str | None:
        """Return the message, or None."""
        return self.message


def train_worker(config: dict[str, Any]) -> None:
    """One process of the group, in which Ray Train has set what torchrun sets.

    Args:
        config: `settings`; `cwd`, the driver's folder, for relative folders of encoders; `cpus`; `verdict`.
    """
    import ray  # heavy, as is torch
    import torch

    if ray.get(config["verdict"].read.remote()) is not None:
        return
    if Path(config["cwd"]).is_dir():
        os.chdir(config["cwd"])
    torch.set_num_threads(config["cpus"])
    try:
        pretrain(Settings(config["settings"]))
    except InputError as error:
        ray.get(config["verdict"].write.remote(str(error)))
        raise


@contextlib.contextmanager
def follow_log(path: Path, show: bool) -> Iterator[None]:
    """Print the lines that the first worker adds to its log: its own output stays on its node."""
    if not show:
        yield
        return
    stop = threading.Event()
    start = path.stat().st_size if path.is_file() else 0
    thread = threading.Thread(target=print_new_lines, args=(path, start, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def print_new_lines(path: Path, offset: int, stop: threading.Event) -> None:
    """Print whole lines of a growing file until `stop` is set and no more come."""
    while True:
        last = stop.wait(FOLLOW_S)
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                say(short_line(line))
        if last:
            return


def short_line(line: bytes) -> str:
    """Return a JSON line of the log as `step 10  loss 2.3456`."""
    try:
        values = json.loads(line)
        step = values.pop("step")
    except (ValueError, LookupError, AttributeError, TypeError):  # no line of ours
        return line.decode("utf-8", "replace").rstrip()
    numbers = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
    return f"step {step}  {numbers}"
