"""Weights without pickle, exact resume, checksums of both.

`checkpoint/best.safetensors` holds the best epoch's weights, `checkpoint/epoch-NNNN/` the last epoch's weights,
optimiser and random states. Each is written under another name and renamed when whole, best first: a kill between the
two repeats the epoch, which gives the same weights again. `checksums.json` beside the files holds their SHA-256, which
is compared before they are loaded.
"""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_recorded, recorded_file, write_checksums
from recbole_blair.files.write import remove, whole_folder, write_text
from recbole_blair.text.trained.item_texts import PREFIX
from recbole_blair.train.display import say
from recbole_blair.train.run_folder import CHECKPOINT, CONFIG, METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

BEST, WEIGHTS, STATE = "best.safetensors", "model.safetensors", "state.pt"
ITEM_IDS = "items.txt"  # beside the weights of a model with a table of items: their ids, one per line
TABLE_ROWS = (0, 1, 2)  # rows of such a table beside the items': none, the padding item's, and a mask item's
FIX_BEST = "copy the run again, or train it again in another output_dir"


def best_path(run_dir: Path | str) -> Path:
    """Return the place of a run's best weights."""
    return Path(run_dir) / CHECKPOINT / BEST


def save_weights(path: Path | str, model: nn.Module) -> None:
    """Write a model's weights as safetensors, and their checksum; buffers the dataset supplies are not among them."""
    with recorded_file(path) as temporary:
        temporary.write_bytes(weights_bytes(model))


def weights_bytes(model: nn.Module) -> bytes:
    """Return the content of a safetensors file of a model's weights."""
    return save({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()})


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of every generator a model may draw from, in types that load with weights_only."""
    version, keys, gauss = random.getstate()
    legacy: Any = np.random.get_state()  # noqa: NPY002
    name, words, position, has_gauss, cached = legacy
    states = {
        "torch": torch.get_rng_state(),
        "python": [version, list(keys), gauss],
        "numpy": [name, torch.from_numpy(words.astype(np.int64)), position, has_gauss, cached],
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Put the generators back into the states that `random_states` returned."""
    torch.set_rng_state(states["torch"])
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, words, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def save_epoch(run_dir: Path | str, epoch: int, model: nn.Module, state: dict[str, Any]) -> None:
    """Write one epoch's folder and drop the earlier ones."""
    folder = Path(run_dir) / CHECKPOINT / f"epoch-{epoch:04d}"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with whole_folder(folder) as temporary:
        (temporary / WEIGHTS).write_bytes(weights_bytes(model))
        (temporary / STATE).write_bytes(buffer.getvalue())
        write_checksums(temporary, (WEIGHTS, STATE))
    keep_epoch(run_dir, epoch)


def keep_epoch(run_dir: Path | str, epoch: int) -> None:
    """Remove the folders of all epochs but one: a kill may have come before that."""
    for folder in (Path(run_dir) / CHECKPOINT).glob("epoch-*"):
        if folder.name != f"epoch-{epoch:04d}":
            remove(folder)


def load_last_epoch(run_dir: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return (weights, state) of the newest whole epoch, or None.

    Raises:
        InputError: a file of it is damaged.
    """
    epochs = sorted((Path(run_dir) / CHECKPOINT).glob("epoch-*"), key=lambda path: int(path.name[6:]))
    if not epochs:
        return None
    fix = f"delete {epochs[-1]} to go on without it, or start a new run in another output_dir"
    for name in (WEIGHTS, STATE):
        checked = check_recorded(epochs[-1] / name, fix)
    if not checked:
        warn_unchecked(epochs[-1])
    try:
        state = torch.load(epochs[-1] / STATE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise damaged(epochs[-1] / STATE, error, fix) from error
    return load_weights(epochs[-1] / WEIGHTS, fix), state


def load_weights(path: Path, fix: str) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error, fix) from error


def damaged(path: Path, error: Exception, fix: str) -> InputError:
    """Return the error for a checkpoint that cannot be read."""
    return InputError(f"{path} is damaged ({' '.join(str(error).split())[:200]}); {fix}")


def warn_unchecked(path: Path) -> None:
    """Say that damage of a file or folder cannot be noticed."""
    say(f"warning: {path} was written by a version that recorded no checksums: damage would not be noticed")


def check_best(run_dir: Path | str) -> bool:
    """Refuse a folder whose best weights are missing or damaged.

    Returns:
        False where no checksum was recorded.

    Raises:
        InputError: the folder holds no weights, or others than were written.
    """
    path = best_path(run_dir)
    if not path.exists():
        raise InputError(f"{run_dir} holds no {CHECKPOINT}/{BEST}: {why_no_weights(Path(run_dir))}")
    return check_recorded(path, FIX_BEST)


def why_no_weights(run_dir: Path) -> str:
    """Say why a folder holds no weights."""
    if not (run_dir / CONFIG).is_file():
        return f"it is no run folder, which has {CONFIG}"
    if (run_dir / METRICS).is_file():
        return f"the run is finished, but its weights are missing; {FIX_BEST}"
    return f"no epoch of the run is finished yet; go on with `recbole-blair train --resume={run_dir}`"


def load_best(run_dir: Path | str) -> dict[str, Tensor]:
    """Return the best epoch's weights.

    Raises:
        InputError: the folder holds none, or they are damaged.
    """
    if not check_best(run_dir):
        warn_unchecked(best_path(run_dir))
    return load_weights(best_path(run_dir), FIX_BEST)


def fit_weights(model: nn.Module, weights: dict[str, Tensor], run_dir: Path | str, what: str) -> None:
    """Put a run's weights into a model built for them; `what` names model and build in the message.

    Raises:
        InputError: they do not fit: the build or the plugin is another than the run's.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())
        raise InputError(
            f"the weights of {run_dir} do not fit {what}: {reason[:300]}. The run was trained on other data or with "
            "another version of the model; name its own data by --data_path, its own plugin by --plugin"
        ) from error


def save_item_ids(run_dir: Path | str, model: nn.Module, item_ids: Sequence[str]) -> None:
    """Write the ids of a model's items, in order, where it has a table of them; a later run finds the rows by them."""
    path = Path(run_dir) / CHECKPOINT / ITEM_IDS
    sizes = {value.shape[0] for value in model.state_dict().values() if value.ndim}
    if not path.exists() and sizes & {len(item_ids) + more for more in TABLE_ROWS}:
        path.parent.mkdir(exist_ok=True)
        write_text(path, "".join(f"{item}\n" for item in item_ids))


def move_item_rows(
    model: nn.Module, given: dict[str, Tensor], former_ids: Sequence[str], item_ids: Sequence[str]
) -> tuple[dict[str, Tensor], int]:
    """Lay out another run's item tables for this model's items.

    A table has a row per item in the order of the catalogue, behind that of the padding item, and perhaps one more at
    its end. Rows of known items and the others are copied; rows of new items keep this model's fresh values.

    Args:
        given: the other run's weights.
        former_ids, item_ids: the items of its build and of this one, in order.

    Returns:
        weights, known: `given` with its tables laid out anew; the number of this build's items that were known.
    """
    own, row_of = model.state_dict(), {item: row for row, item in enumerate(former_ids)}
    source = torch.tensor([row_of.get(item, -1) for item in item_ids])
    here = torch.nonzero(source >= 0)[:, 0]
    embeddings = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    moved = dict(given)
    for name, former in given.items():
        more = former.shape[0] - len(former_ids) if former.ndim else -1  # rows beside the items'
        fits = name in own and more in TABLE_ROWS and own[name].shape == (len(item_ids) + more, *former.shape[1:])
        if not fits or (len(former_ids) == len(item_ids) and name not in embeddings):
            continue  # of equal sizes another matrix may have as many rows by chance
        first, table = min(more, 1), own[name].detach().cpu().clone()
        table[:first] = former[:first]
        table[first + len(item_ids) :] = former[first + len(former_ids) :]
        table[first + here] = former[first + source[here]]
        moved[name] = table
    return moved, len(here)


def load_initial_weights(
    model: nn.Module, run_dir: Path | str, strict: bool, item_ids: Sequence[str] | None = None
) -> tuple[list[str], int | None]:
    """Start a model from another run's best weights.

    Args:
        item_ids: this build's; with them the rows of another build's items are found by id.
        strict: False keeps fresh values where names or shapes differ.

    Returns:
        fresh, known: the parameters that kept their fresh values; the number of items whose rows were found by id, None
        where the builds have the same items or the other run wrote no ids.

    Raises:
        InputError: weights that do not fit, with the first of them, when strict.
    """
    known, path = None, Path(run_dir) / CHECKPOINT / ITEM_IDS
    # A text encoder starts from its own folder, whatever the other run trained.
    own, given = (
        {k: v for k, v in weights.items() if not k.startswith(PREFIX)}
        for weights in (model.state_dict(), load_best(run_dir))
    )
    if item_ids is not None and path.is_file():
        former_ids = path.read_text(encoding="utf-8").split("\n")[:-1]
        if former_ids != list(item_ids):
            given, known = move_item_rows(model, given, former_ids, item_ids)
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
    return fresh, known
