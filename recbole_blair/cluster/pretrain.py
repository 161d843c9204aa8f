"""Pretraining over a Ray cluster: Ray Train starts the processes that torchrun would, the loop is pretrain/run.py's.

Ray Train joins the processes into one group and, when one is lost, starts them all again; the loop then goes on from
its last whole checkpoint in `output_dir`, as it does after any kill. `output_dir` and the pairs must be on storage that
all nodes see under the same path.
"""

import contextlib
import json
import os
import shutil
import threading
from pathlib import Path

from recbole_blair.cluster.pool import first_line
from recbole_blair.errors import InputError
from recbole_blair.parallel.distributed import WAIT
from recbole_blair.parallel.ray_cluster import cpus_that_fit, environment, node_resources, places
from recbole_blair.pretrain.run import METRICS, STATE_DIR, check_folder
from recbole_blair.pretrain.settings import Settings
from recbole_blair.train.display import say

MAX_FAILURES = 3  # times the processes are started again after one was lost
RAY = ".ray"  # what Ray Train writes for itself, below <output_dir>/pretraining; deleted at the end
PATHS = ("pairs", "output_dir", "pairs_path", "raw_dir")  # keys that may stand in another process's folder
FOLLOW_S = 1.0
PATIENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"}  # of Ray's 60: busy machines import slowly


def pretrain_over_cluster(settings, num_workers, ray_options):
    """Train as `pretrain.run.pretrain` does, in `num_workers` processes of a Ray cluster.

    Args:
        settings (Settings): of `pretrain`.
        num_workers (int): processes, one a GPU where the cluster has GPUs; each has `per_device_batch` pairs a step.
        ray_options (RayOptions): which cluster.

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
        with following(folder / STATE_DIR / "log.txt", settings.show_progress):
            run_workers(settings, num_workers, each, folder / STATE_DIR / RAY)
    metrics = folder / STATE_DIR / METRICS
    if not metrics.is_file():
        raise InputError(
            f"the workers are through, but {metrics} is not seen from here; put --output_dir on storage all nodes share"
        )
    return json.loads(metrics.read_text(encoding="utf-8"))


def absolute(path):
    """Return a path that holds in any folder; None stays."""
    return None if path is None else str(Path(path).expanduser().absolute())


def worker_resources(nodes, device, num_workers):
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


def run_workers(settings, num_workers, each, storage):
    """Run Ray Train until the workers are through.

    Raises:
        InputError: what a worker refused.
        RuntimeError: workers failed once more than they may.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    verdict = ray.remote(Verdict).options(num_cpus=0).remote()
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
    """Keeps what a worker refused: started again, the workers would refuse it again."""

    def __init__(self):
        self.message = None

    def write(self, message):
        """Keep the first message."""
        self.message = self.message or message

    def read(self):
        """Return the message, or None."""
        return self.message


def train_worker(config):
    """One process of the group, in which Ray Train has set what torchrun sets.

    Args:
        config (dict): `settings`; `cwd`, the driver's folder, for relative folders of encoders; `cpus`; `verdict`.
    """
    import ray
    import torch

    from recbole_blair.pretrain.run import pretrain

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
def following(path, show):
    """Print the lines that the first worker adds to its log: its own output stays on its node."""
    if not show:
        yield
        return
    stop = threading.Event()
    start = path.stat().st_size if path.is_file() else 0
    thread = threading.Thread(target=follow, args=(path, start, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def follow(path, offset, stop):
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


def short_line(line):
    """Return a JSON line of the log as `step 10  loss 2.3456`."""
    values = json.loads(line)
    step = values.pop("step")
    numbers = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
    return f"step {step}  {numbers}"
