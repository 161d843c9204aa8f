"""Cards (README.md) of what is pushed to the hub: what it is, how to load it, its metrics as `model-index`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recbole_blair.errors import InputError
from recbole_blair.files.read import read_text
from recbole_blair.files.yaml_loader import YamlLoader
from recbole_blair.runs.hub_layout import CARD, CATALOGUE, VECTORS
from recbole_blair.schema import DOMAINS, HF_DATASET, VERSION
from recbole_blair.text.vectors import IDS_FILE
from recbole_blair.train.run_folder import ENCODER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recbole_blair.runs.open_run import OpenRun

LIBRARY = "recbole_blair"
MADE_BY = f"Written by `recbole-blair push` {VERSION}."
PARAGRAPH = "\n\n"
FRONT = re.compile(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", re.DOTALL)


def run_card(run: OpenRun, repo: str, plm: str | None) -> str:
    """Return the card of a run.

    Args:
        plm: its encoder on the hub; None: not there, or it trained one, or reads no text.
    """
    # heavy: the hub's client
    from huggingface_hub import EvalResult, ModelCardData

    about, model = run.metrics, run.info.name
    amazon = run.config["dataset"] in DOMAINS
    data = ModelCardData(
        library_name=LIBRARY,
        model_name=f"{model} on {run.dataset.name}",
        base_model=plm,
        datasets=HF_DATASET if amazon else None,
        tags=["recommendation", "sequential-recommendation", "recbole", model],
        eval_results=[
            EvalResult(
                task_type="recommendation",
                task_name="Sequential recommendation, all items ranked",
                dataset_type=HF_DATASET if amazon else run.dataset.name,
                dataset_name=run.dataset.name,
                dataset_split="test",
                dataset_args={"protocol": run.config["protocol"]},
                metric_type=name,
                metric_value=value,
            )
            for name, value in about.get("test", {}).items()
        ]
        or None,
    )
    valid = about.get("best_valid") or {}
    lines = [f"| {name} | {valid.get(name, '–')} | {value} |" for name, value in about.get("test", {}).items()]
    table = "\n".join(["| metric | valid | test |", "|---|---|---|", *lines]) if lines else "None were recorded."
    rows = ", ".join(f"{n:,} {split}" for split, n in about.get("rows", {}).items())
    text = f"\nText encoder of the items: `{run.encoder}`." if run.encoder else ""
    if run.encoder and plm is None and not (run.folder / ENCODER).is_dir():
        text += f' It is not in here: new items need it, `load("{repo}", plm="<its folder or hub id>")`.'
    n_items, example = f"{run.dataset.n_items - 1:,}", [str(run.dataset.item_tokens[0])]
    return f"""---
{data.to_yaml()}
---

# {model} on {run.dataset.name}

A recommender of {n_items} items, trained by [RecBole's](https://recbole.io) extension recbole_blair. Protocol
`{run.config["protocol"]}`, seed {run.config["seed"]}, rows: {rows}.{text}

## Use

```python
import recbole_blair

run = recbole_blair.load("{repo}")
print(run.recommend([{{"user_id": "a visitor", "item_id_list": {example}}}]))
```

`recbole-blair recommend --checkpoint={repo} --users=histories.jsonl` does the same. Histories are given: no user is
known here.

## Metrics

All items are ranked; fractions. History items masked: {about.get("history_masked", run.config["mask_history"])}.

{table}

## What is in here

The best weights (safetensors), the configuration without its paths, the metrics, and in `{CATALOGUE}/` what
recommending needs of the data: the items with their columns, their text features, how often each item is a target of
training and whether a row of training holds it, the numbers of rows, the time of the latest event. No row, no user id
and no history was sent. To evaluate the run, give the folder of its build by `--data_path`.

{MADE_BY}
"""


def encoder_card(folder: Path, repo: str, after: Mapping[str, float]) -> str:
    """Return the card of an encoder: its own README.md, the metrics of its pretraining added.

    Args:
        after: metrics of the held-out pairs.
    """
    # heavy: the hub's client
    from huggingface_hub import EvalResult, ModelCardData

    front, body = own_card(folder)
    base = front.pop("base_model", None)
    front.pop("model-index", None)
    model_name = str(front.pop("model_name", None) or repo.partition("/")[2])
    given = front.pop("tags", None)
    tags = [str(tag) for tag in (given if isinstance(given, list) else [])]
    data = ModelCardData(
        library_name=front.pop("library_name", "sentence-transformers"),
        pipeline_tag=front.pop("pipeline_tag", "sentence-similarity"),
        model_name=model_name if after else None,
        # the name of a folder is no base on the hub
        base_model=base if isinstance(base, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base) else None,
        tags=list(dict.fromkeys([*tags, "sentence-transformers", "recommendation"])),
        eval_results=[
            EvalResult(
                task_type="sentence-similarity",
                task_name="Retrieval of the item of a held-out context",
                dataset_type="pairs",
                dataset_name="held-out pairs",
                metric_type=name,
                metric_value=value,
            )
            for name, value in after.items()
        ]
        or None,
        **{str(key): value for key, value in front.items() if str(key).isidentifier()},
    )
    use = f"`recbole-blair encode --dataset=<name> --plm={repo}` makes item features with it."
    return f"---\n{data.to_yaml()}\n---\n\n{body.strip() or f'# {model_name}{PARAGRAPH}{use}{PARAGRAPH}{MADE_BY}'}\n"


def own_card(folder: Path) -> tuple[dict[str, Any], str]:
    """Return front matter and text of a folder's README.md; empty without one.

    Raises:
        InputError: the front matter is no YAML mapping.
    """
    path = folder / CARD
    if not path.is_file():
        return {}, ""
    text = read_text(path, "a model card")
    found = FRONT.match(text)
    if not found:
        return {}, text
    try:
        front = yaml.load(found[1], Loader=YamlLoader) or {}
    except yaml.YAMLError as error:
        raise InputError(
            f"{path}: its front matter is not YAML ({' '.join(str(error).split())[:100]}); mend it"
        ) from None
    if not isinstance(front, dict):
        raise InputError(f"{path}: its front matter is a {type(front).__name__}, expected keys; mend it")
    return front, text[found.end() :]


def features_card(header: Mapping[str, Any], build: str, repo: str) -> str:
    """Return the card of the text features of a build's items."""
    from huggingface_hub import DatasetCardData  # heavy: the hub's client

    data = DatasetCardData(pretty_name=f"Item text features of {build}", tags=["recommendation", LIBRARY])
    shown = ("encoder", "source", "revision", "pooling", "max_length", "precision", "normalised", "text_sha256")
    about = "\n".join(f"- {key}: `{header[key]}`" for key in shown if header.get(key) is not None)
    return f"""---
{data.to_yaml()}
---

# Item text features of {build}

{header["rows"]:,} items, width {header["width"]}, float32. `{VECTORS}` holds one tensor, a row per item; `{IDS_FILE}`
names the items in that order.

{about}

## Use

```bash
hf download {repo} --repo-type=dataset --local-dir=features
recbole-blair encode --build=dataset/{build} --plm=vectors:features/{VECTORS}
```

{MADE_BY}
"""
