"""The contract every recommender keeps, as tests; for ours, for plugins, and for packages of one's own.

    from recbole_blair.testing import Contract

    class TestMyRec(Contract):
        model, plugin = "MyRec", "myrec.py"  # no plugin for an installed package

pytest collects one test per promise. Without pytest, `check_contract("MyRec", plugin="myrec.py")` runs them all.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.config import Config, resolve_config
from recbole_blair.registry import find_model, use_plugins
from recbole_blair.schema import (
    INTER_COLUMNS,
    ITEM_COLUMNS,
    ITEM_ID,
    PAIR_COLUMNS,
    TEST_START_MS,
    USER_ID,
    VALID_START_MS,
)

if TYPE_CHECKING:
    from torch import Tensor

    from recbole_blair.data.dataset import BlairDataset

# Inside the functions: what loads torch, which a test file that only subclasses Contract does without.

USERS, ITEMS, LONGEST, WIDTH = 30, 20, 12, 12  # of the generated data; WIDTH of its text features
ROWS = 8  # of the batch that the checks run on
STEPS = 150  # within which eight rows must be learnt by heart
SMALL = {
    "hidden_size": 16,
    "embedding_size": 16,
    "n_heads": 2,
    "inner_size": 32,
    "adaptor_hidden_sizes": [24],
    "n_exps": 3,
}


class Contract:
    """Subclass it as `class TestMyRec(Contract)` and set `model`.

    `plugin` is a file as `--plugin` takes it, found beside the test or from the working folder. `keys` are keys of the
    model, for one whose defaults are slow; the usual names of widths are made small anyway.
    """

    model = ""
    plugin: Path | str | None = None
    keys: dict[str, Any] = {}

    def case(self) -> Case:
        """The model under test."""
        return Case(self.model, find_plugin(self.plugin, type(self).__module__), self.keys)

    def test_the_loss_is_a_finite_scalar_and_reaches_every_parameter(self) -> None:
        check_loss(self.case())

    def test_scores_are_rows_by_items_and_predict_equals_the_full_sort(self) -> None:
        check_scores(self.case())

    def test_the_evaluator_ranks_by_the_same_scores(self) -> None:
        check_dot_product(self.case())

    def test_padding_and_batch_company_change_nothing(self) -> None:
        check_padding(self.case())

    def test_weights_survive_saving_and_loading(self) -> None:
        check_round_trip(self.case())

    def test_eight_users_can_be_memorised(self) -> None:
        check_memory(self.case())


class Case:
    """A small model on generated data.

    Args:
        name: of the model.
        plugin: its file.
        keys: keys of its own, above its defaults and the small widths.
    """

    def __init__(self, name: str, plugin: Path | str | None = None, keys: dict[str, Any] | None = None) -> None:
        use_plugins(plugin)
        self.info = find_model(name)
        self.keys = dict(keys or {})
        self.defaults = self.info.load_defaults()
        self.dataset = contract_dataset(self.info.ranks_users)

    @property
    def trains(self) -> bool:
        """False for a model without anything to fit."""
        return getattr(self.info.load_class(), "trains", True)

    def build(self, **changes: Any) -> tuple[Config, Any]:
        """Return (Config, model), built with seed 7 whatever `changes` says."""
        from recbole_blair.registry.build_model import build_model
        from recbole_blair.train.runtime import runtime_config, seed_everything

        small = {key: value for key, value in SMALL.items() if key in self.defaults}
        base: dict[str, Any] = {"device": "cpu", "precision": "fp32", "train_batch_size": 16, "show_progress": False}
        if self.info.ranks_users:
            base["protocol"] = "random"
        config = runtime_config(resolve_config(self.info, "contract", (), {**base, **small, **self.keys, **changes}))
        seed_everything(config["seed"] if "seed" in changes else 7)
        return config, build_model(self.info, config, self.dataset)

    def batch(self, config: Config, trim: bool | None = None) -> Any:
        """Return the first train rows, padded as the model's own training pads them unless `trim` says.

        Of a general recommender they are pairs, as its training takes them.
        """
        from recbole_blair.data.loader import RowLoader
        from recbole_blair.registry.build_model import build_loaders

        loaders = build_loaders(self.info, config, self.dataset)
        if self.info.ranks_users:
            return loaders["train"].build(np.arange(ROWS) * (len(loaders["train"].rows) // ROWS))  # of many users
        trim = getattr(loaders["valid"], "trim", True) if trim is None else trim
        n_neg = getattr(loaders["train"], "n_neg", 0)  # none where whole sequences are trained on
        return next(iter(RowLoader(self.dataset, "train", ROWS, max_length=50, trim=trim, bucket=False, n_neg=n_neg)))


@functools.cache
def contract_dataset(pairs: bool = False) -> BlairDataset:
    """Return the generated dataset: users walk round a ring of items, so that the next item can be learnt.

    Args:
        pairs: as pairs without histories, for general recommenders.
    """
    import torch

    from recbole_blair.data.dataset import BlairDataset

    folder = tempfile.TemporaryDirectory(prefix="recbole-blair-contract-")
    dataset = BlairDataset(write_ring(Path(folder.name) / "contract", pairs), use_cache=False)
    folder.cleanup()  # all of it is in memory
    generator = torch.Generator().manual_seed(1)
    dataset.set_text_features(torch.randn(dataset.n_items - 1, WIDTH, generator=generator))
    return dataset


def write_ring(folder: Path, pairs: bool = False) -> Path:
    """Write the atomic files of the generated dataset, with histories or as pairs; returns their folder."""
    folder.mkdir()
    lines: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user in range(USERS):
        length = 4 + user * 7 % (LONGEST - 3)
        items = [f"i{(user * 3 + step) % ITEMS:02d}" for step in range(length)]
        times = [1_500_000_000_000 + user * 1000 + step for step in range(length - 2)]
        times += [VALID_START_MS + user, TEST_START_MS + user]
        for n, split in zip(range(1, length), ["train"] * (length - 3) + ["valid", "test"]):
            past = " ".join(items[:n]), " ".join(map(str, times[:n]))
            fields = (items[n], times[n]) if pairs else (past[0], items[n], past[1], times[n])
            lines[split].append("\t".join(map(str, (f"u{user}", *fields))))
    for split, rows in lines.items():
        path = folder / f"{folder.name}.{split}.inter"
        columns = PAIR_COLUMNS if pairs else INTER_COLUMNS
        path.write_text("\n".join(["\t".join(columns), *rows]) + "\n", encoding="utf-8")
    rows = [f"i{n:02d}\ttitle {n}\ttext of item {n}\tcategory\tstore\t1.0" for n in range(ITEMS)]
    path = folder / f"{folder.name}.item"
    path.write_text("\n".join(["\t".join(ITEM_COLUMNS), *rows]) + "\n", encoding="utf-8")
    return folder


def find_plugin(plugin: Path | str | None, module: str) -> Path | str | None:
    """Return a plugin's path: as given, or beside the file of the test's module."""
    if plugin is None or Path(plugin).is_file():
        return plugin
    beside = Path(getattr(sys.modules.get(module), "__file__", None) or ".").parent / plugin
    return beside if beside.is_file() else plugin


def scores_of(model: Any, batch: Any) -> Tensor:
    """Score every item for every row, (B, N)."""
    return model.full_sort_predict(batch).view(len(batch), -1)


def loss_of(model: Any, batch: Any) -> Any:
    """The training loss; RecBole's models may return parts."""
    loss = model.calculate_loss(batch)
    return sum(loss) if isinstance(loss, tuple) else loss


def check_loss(case: Case) -> None:
    """The loss is one finite number, and every parameter gets a gradient from it."""
    import torch

    if not case.trains:
        return
    config, model = case.build()
    loss = loss_of(model.train(), case.batch(config))
    assert loss.ndim == 0, f"calculate_loss returned the shape {tuple(loss.shape)}; expected a scalar"
    assert torch.isfinite(loss), f"calculate_loss returned {loss.item()}"
    loss.backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle, f"the loss does not reach {', '.join(idle)}"


def check_scores(case: Case) -> None:
    """`full_sort_predict` gives (B, N) finite scores, and `predict` those of the rows' own items."""
    import torch

    config, model = case.build()
    batch = case.batch(config)
    with torch.inference_mode():
        scores = scores_of(model.eval(), batch)
        expected = (len(batch), case.dataset.n_items)
        assert scores.shape == expected, f"scores are {tuple(scores.shape)}; expected {expected}, padding item included"
        assert torch.isfinite(scores[:, 1:]).all(), "a score is not finite"
        own = scores.gather(1, batch["item_id"][:, None]).squeeze(1)
        torch.testing.assert_close(model.predict(batch), own, rtol=1e-4, atol=1e-5)


def check_dot_product(case: Case) -> None:
    """Where a model gives `project_items`, the evaluator's way of scoring equals `full_sort_predict`."""
    import torch

    config, model = case.build()
    model.eval()
    if not hasattr(model, "project_items") or not getattr(model, "scores_by_dot_product", True):
        return
    batch, some = case.batch(config), torch.tensor([2, 5, 11])
    with torch.inference_mode():
        projected = model.project_items()
        if projected is None:
            return
        torch.testing.assert_close(model.project_items(some), projected[some - 1], rtol=1e-4, atol=1e-5)
        vectors, users = model.item_vectors(projected), model.user_vectors(batch, projected)
        assert vectors.shape == (case.dataset.n_items, users.shape[1]), (
            "item_vectors must give (N, H), padding included"
        )
        torch.testing.assert_close(users @ vectors.T, scores_of(model, batch), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.user_vectors(batch), users, rtol=1e-4, atol=1e-4)


def check_padding(case: Case) -> None:
    """Neither padded slots nor the other rows of a batch change a row's scores."""
    import torch

    config, model = case.build()
    batch, wide = case.batch(config), case.batch(config, trim=False)  # the same for pairs: they have no history
    model.eval()
    with torch.inference_mode():
        together, padded = scores_of(model, batch), scores_of(model, wide)
        alone = torch.cat([scores_of(model, rows(batch, i)) for i in range(len(batch))])
    torch.testing.assert_close(padded, together, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)


def rows(batch: Any, i: int) -> Any:
    """Row `i` of a batch as a batch of one."""
    return type(batch)({key: batch[key][i : i + 1] for key in batch})


def check_round_trip(case: Case) -> None:
    """A model built from another seed scores the same once it has the saved weights."""
    import torch
    from safetensors.torch import load_file

    from recbole_blair.train.checkpoint import save_weights

    config, model = case.build()
    _, other = case.build(seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(path, model)
        other.load_state_dict(load_file(path))
    batch = case.batch(config)
    with torch.inference_mode():
        assert torch.equal(scores_of(model.eval(), batch), scores_of(other.eval(), batch)), (
            "the same weights give other scores: something the scores depend on is neither a parameter nor a buffer"
        )


def check_memory(case: Case) -> None:
    """Eight rows are learnt by heart: the loss falls below 30 %, and the target leads in all but one row at most.

    Of a general recommender the loss must fall, and a pair's item leads the items that its user does not have.
    """
    import torch

    if not case.trains:
        return
    quiet = {key: 0.0 for key in case.defaults if key.endswith(("dropout_prob", "dropout", "drop_rate"))}
    config, model = case.build(learning_rate=0.01, **quiet)
    batch = case.batch(config)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=config["learning_rate"])
    model.train()
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if losses[-1] < 0.02 * losses[0]:
            break  # learnt well before the last step
    most = 1.0 if case.info.ranks_users else 0.3  # pairs that contradict each other hold a loss up
    assert losses[-1] < most * losses[0], f"{STEPS} steps on {ROWS} rows took the loss from {losses[0]} to {losses[-1]}"
    with torch.inference_mode():
        scores = scores_of(model.eval(), batch)
    if case.info.ranks_users:
        user, item = case.dataset.train_pairs()
        owned = torch.zeros(case.dataset.n_users, case.dataset.n_items, dtype=torch.bool)
        owned[user, item] = True
        mine = owned[batch[USER_ID]].scatter(1, batch[ITEM_ID][:, None], False)  # (B, N) but for the pair's own item
        scores = scores.masked_fill(mine, float("-inf"))
    right = (scores[:, 1:].argmax(1) + 1 == batch[ITEM_ID])[:ROWS].sum().item()
    assert right >= ROWS - 1, f"after {STEPS} steps on {ROWS} rows the target leads in {right} of them"


CHECKS = (check_loss, check_scores, check_dot_product, check_padding, check_round_trip, check_memory)


def check_contract(model: str, plugin: Path | str | None = None, **keys: Any) -> None:
    """Run every check on a model.

    Args:
        model: its name.
        plugin: its file, where no package registers it.
        **keys: keys of the model, above its defaults.

    Raises:
        AssertionError: the first promise it does not keep.
        InputError: no such model, or one that cannot be imported.
    """
    case = Case(model, plugin, keys)
    for check in CHECKS:
        check(case)
