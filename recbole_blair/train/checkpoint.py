"""Run folders: checkpoints without pickle, exact resume, the configuration they belong to.

`checkpoint/best.safetensors` holds the best epoch's weights, `checkpoint/epoch-NNNN/` the last epoch's weights,
optimiser and random states. Each is written under another name and renamed when whole, best first: a kill between the
two repeats the epoch, which gives the same weights again.
"""

import io
import json
import os
import pickle
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from recbole_blair.config import Config, load_yaml
from recbole_blair.errors import InputError
from recbole_blair.parallel.distributed import broadcast, rank

CHECKPOINT, BEST, METRICS, CONFIG = "checkpoint", "best.safetensors", "metrics.json", "config.yaml"
LOCK = ".lock"  # held by the process that trains in a run folder; what is left of it afterwards means nothing


@contextmanager
def only_trainer(run_dir):
    """Hold a run folder while training in it; of several processes that train together the first one holds it.

    Raises:
        InputError: another process trains there.
    """
    lock, held = FileLock(Path(run_dir) / LOCK), True
    if rank() == 0:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            held = False
    if not broadcast(held):
        raise InputError(f"another process trains in {run_dir}; wait for it, stop it, or give another output_dir")
    try:
        yield
    finally:
        lock.release()


def write_bytes(path, data):
    """Write a file under a temporary name and rename it when whole; a full disk is an OSError, nothing is left."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a small text file as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def save_weights(path, model):
    """Write a model's weights as safetensors; buffers the dataset supplies are not among them."""
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    write_bytes(path, save(state))


def random_states(device):
    """The states of every generator a model may draw from, in types that load with weights_only."""
    version, keys, gauss = random.getstate()
    name, words, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    states = {
        "torch": torch.get_rng_state(),
        "python": [version, list(keys), gauss],
        "numpy": [name, torch.from_numpy(words.astype(np.int64)), position, has_gauss, cached],
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states, device):
    """Put the generators back where they were."""
    torch.set_rng_state(states["torch"])
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, words, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def save_epoch(run_dir, epoch, model, state):
    """Write one epoch's folder and drop the earlier ones."""
    root = Path(run_dir) / CHECKPOINT
    final, temporary = root / f"epoch-{epoch:04d}", root / f".epoch-{epoch:04d}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_weights(temporary / "model.safetensors", model)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(temporary / "state.pt", buffer.getvalue())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in root.iterdir():
        if old.name.startswith(("epoch-", ".epoch-")) and old != final:
            shutil.rmtree(old, ignore_errors=True)
        elif old.name.startswith("."):  # what a killed run left
            old.unlink(missing_ok=True)


def load_last_epoch(run_dir):
    """Return (weights, state) of the newest whole epoch, or None.

    Raises:
        InputError: a file of it is damaged.
    """
    epochs = sorted((Path(run_dir) / CHECKPOINT).glob("epoch-*"), key=lambda path: int(path.name[6:]))
    if not epochs:
        return None
    path = epochs[-1] / "state.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise damaged(path, error) from error
    return load_weights(epochs[-1] / "model.safetensors"), state


def load_weights(path):
    """Read a safetensors file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from error


def damaged(path, error):
    """The error for a checkpoint that cannot be read."""
    return InputError(
        f"{path} is damaged ({' '.join(str(error).split())[:200]}); delete {path.parent} to go on without it, or start "
        "a new run in another output_dir"
    )


def load_best(run_dir):
    """Return the best epoch's weights.

    Raises:
        InputError: the folder holds none.
    """
    path = Path(run_dir) / CHECKPOINT / BEST
    if not path.is_file():
        raise InputError(f"{run_dir} holds no {CHECKPOINT}/{BEST}: it is no run folder, or its training has not begun")
    return load_weights(path)


def fit_weights(model, run_dir, what):
    """Put a run's best weights into a model built for them; `what` names model and build in the message.

    Raises:
        InputError: they do not fit: the build or the plugin is another than the run's.
    """
    try:
        model.load_state_dict(load_best(run_dir))
    except RuntimeError as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())
        raise InputError(
            f"the weights of {run_dir} do not fit {what}: {reason[:300]}. The run was trained on other data or with "
            "another version of the model; name its own data by --data_path, its own plugin by --plugin"
        ) from error


def save_config(run_dir, config):
    """Write the resolved configuration."""
    write_text(Path(run_dir) / CONFIG, yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True))


def load_config(run_dir):
    """Read a run's resolved configuration as plain keys; its plugin files become known to `find_model`."""
    from recbole_blair.registry import remember_plugins

    path = Path(run_dir) / CONFIG
    if not path.is_file():
        raise InputError(f"{run_dir} holds no {CONFIG}: it is no run folder")
    saved = load_yaml(path)
    remember_plugins(saved.get("plugin"))
    return saved


def load_metrics(run_dir):
    """Return a finished run's metrics.json, or None."""
    path = Path(run_dir) / METRICS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); delete it, and the run makes it again") from error


def check_same_run(run_dir, config):
    """Refuse to go on in a folder whose run had another configuration.

    Raises:
        InputError: names the keys that differ.
    """
    saved = Config(load_config(run_dir)).fingerprint()
    asked = Config(config.plain()).fingerprint()
    differ = [k for k in saved.keys() | asked.keys() if saved.get(k) != asked.get(k)]
    differ.sort(key=lambda k: (k not in ("model", "dataset", "seed"), k))
    if differ:
        shown = ", ".join(f"{k} {saved.get(k)!r} -> {asked.get(k)!r}" for k in differ[:5])
        raise InputError(
            f"{run_dir} holds a run with another configuration ({shown}); choose another output_dir, or go on with its "
            f"own by --resume={run_dir}"
        )


def load_initial_weights(model, run_dir, strict):
    """Start a model from another run's best weights.

    Args:
        strict (bool): False keeps fresh values where names or shapes differ.

    Returns:
        list of str: parameters that kept their fresh values.

    Raises:
        InputError: weights that do not fit, with the first of them, when strict.
    """
    own, given = model.state_dict(), load_best(run_dir)
    fit = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    fresh = sorted(own.keys() - fit.keys())
    if strict and (fresh or given.keys() - fit.keys()):
        name = (fresh or sorted(given.keys() - fit.keys()))[0]
        shapes = f"{tuple(given[name].shape) if name in given else 'absent'} there, "
        shapes += f"{tuple(own[name].shape) if name in own else 'absent'} here"
        raise InputError(
            f"the weights of {run_dir} do not fit this model: {name} is {shapes}; use the same model settings, or "
            "--init_strict=False to start the parts that differ afresh"
        )
    if not fit:
        raise InputError(f"no weight of {run_dir} fits this model; it was trained with another model")
    model.load_state_dict(fit, strict=False)
    return fresh
