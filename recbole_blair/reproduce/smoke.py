"""The small scale: the same rows, with generated data, stand-ins for encoders and small budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_blair.reproduce.steps import Planner
from recbole_blair.reproduce.tables import Row, load_smoke
from recbole_blair.schema import DEFAULT_PLM, TFIDF_SVD
from recbole_blair.steps.step import Places, Step
from recbole_blair.steps.world import World

STEAM, ESCI = "steam", "esci"
TRAINED = "trained"
OF_REAL_PAIRS = (
    "pairs",
    "pairs_from",
    "exclude_items",
    "max_pairs",
    "keep_layers",
)  # keys that the generated world has no use for


class SmokePlanner(Planner):
    """Turns rows into steps on a generated world.

    Args:
        world: the generated files.
        settings: None reads props/reproduce/smoke.yaml.
    """

    def __init__(self, world: World, settings: dict[str, Any] | None = None) -> None:
        super().__init__(Places(raw_dir=str(world.raw_dir), data_path=str(world.data_path), progress=False))
        self.world = world
        self.settings = load_smoke() if settings is None else settings

    def steps_of(self, row: Row) -> list[str]:
        """Return the row's steps; where it searches the generated ESCI set, which has no pool, drawing one comes first.

        Rows on real slices draw none: the folder of the measuring data holds the pool.
        """
        names = super().steps_of(row)
        commands = {self.steps[name].command for name in names}
        if "search" in commands and "pools" not in commands and ESCI in Path(row.data["dataset"]).name:
            draw = self.adapt(Step("pools", {"dataset": ESCI, "wanted": True}), row)
            names = [self.add(draw), *names] if draw else names
        return names

    def encoder(self, name: str | None, names: list[str]) -> str | None:
        """Return the stand-in of an encoder."""
        entry = self.encoders.get(name or "", {})
        if "pretrain" in entry:
            return super().encoder(name, names)
        kind = entry.get("smoke")
        if kind == TRAINED:
            made = self.add(self.pretraining({"dataset": "all", "objective": "contrastive+mlm", "plm": self.random()}))
            names.extend([made] if made not in names else [])
            return f"step:{made}"
        return kind

    def random(self) -> str:
        """Return the folder of the encoder of random weights."""
        return str(self.world.encoder())

    def pretraining(self, keys: dict[str, Any]) -> Step:
        """Return the small pretraining: the row's objective on generated pairs."""
        keys = {k: v for k, v in keys.items() if k not in OF_REAL_PAIRS}  # reviews stand in
        own = self.settings["pretrain_mlm"] if keys["objective"] == "mlm" else {}
        return Step("pretrain", {**keys, "dataset": self.world.domain, **self.settings["pretrain"], **own})

    def adapt(self, step: Step, row: Row) -> Step | None:
        """Put generated data and small budgets in place of a step's own."""
        command, keys = step.command, dict(step.keys)
        if command == "pools" and not keys.pop("wanted", False):
            return None
        if command == "pretrain":
            return self.pretraining(keys)
        if command == "train":
            budget = {**self.settings["train"]["all"], **self.settings["train"].get(keys["model"], {})}
            keys = {**keys, **budget}
            if str(keys.get("train_encoder")).startswith("last:"):
                keys["train_encoder"] = "last:1"  # the encoder of random weights has no more layers
            if "grid" in keys:  # two points show that the better one is taken
                keys["grid"] = {key: values[: 2 - bool(n)] for n, (key, values) in enumerate(keys["grid"].items())}
            for warmup in ("warmup_steps", "encoder_warmup_steps"):
                if keys.get(warmup):
                    keys[warmup] = 2  # a training of seconds has few steps
            if keys.get("encoder_frozen_epochs"):
                keys["encoder_frozen_epochs"] = budget["epochs"] // 2
            if keys.get("plm") == TFIDF_SVD:  # a stand-in with a width of its own
                keys.pop("plm_dimensions", None)
        if command == "prepare" and "recipe" in keys:
            return None  # the generated data stand in
        if command == "bench":
            return Step(command, {**keys, "suite": "smoke", "seeds": [2020]})
        if command == "prepare" and "source" in keys:
            return Step(command, {**keys, "interactions": self.world.steam()[0], "items": self.world.steam()[1]})
        keys["dataset"] = self.dataset(command, keys["dataset"])
        if command == "pools":
            keys |= {"domain": self.world.domain, "candidates": self.settings["candidates"]}
        if command == "pairs":
            keys["share"] = 1.0  # so that they can be counted plainly
        if command == "search":
            keys |= {"precision": "fp32"}
            keys.pop("plm", None) if keys.get("plm") == DEFAULT_PLM else None
        return Step(command, keys)

    def dataset(self, command: str, name: str) -> str:
        """Return the generated data set that stands for `name`."""
        if command in ("search", "pools"):
            return str(self.world.queries(ESCI if ESCI in Path(name).name else "c4"))
        return STEAM if name == STEAM else self.world.domain
