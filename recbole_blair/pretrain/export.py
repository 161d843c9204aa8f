"""The trained encoder as a published one looks: transformers and sentence-transformers load the same folder.

Layout: config.json, model.safetensors, the tokenizer, modules.json and 1_Pooling (which state the pooling), README.md
(the model card), checksums.json (of all the others). Vectors are raw pooled states; nothing in the folder normalises
them.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import nn

from recbole_blair.errors import InputError
from recbole_blair.figures import fraction
from recbole_blair.files.checksum import write_checksums
from recbole_blair.files.write import put_in_place, work_folder
from recbole_blair.pretrain.load import HEADS_FILE, quiet_loading
from recbole_blair.schema import VERSION
from recbole_blair.text.export import write_sentence_transformer_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from recbole_blair.pretrain.model import PairEncoder

WEIGHTS, CARD = "model.safetensors", "README.md"
PACKAGES = ("torch", "transformers", "datasets", "tokenizers")
NO_LICENCE = "not stated by the base; see where it came from"


def export_encoder(model: PairEncoder, tokenizer: PreTrainedTokenizerBase, folder: Path | str, card: str) -> None:
    """Write the encoder; the weights come last, so that a folder without them is never taken for whole.

    Args:
        model: trained.
        tokenizer: its tokenizer.
        folder: where the encoder goes; other files there stay.
        card: README.md.
    """
    folder = Path(folder)
    whole = model.denoiser if model.denoiser is not None else model.body
    with work_folder(folder / "export") as staging:
        with quiet_loading():
            whole.save_pretrained(staging)
        if tokenizer.is_fast:  # calls leave their cut in it, and whether there was a call depends on where a run began
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(staging)
        length = text_limit(model, tokenizer)
        write_sentence_transformer_files(staging, model.pooling, whole.config.hidden_size, length)
        (staging / CARD).write_text(card, encoding="utf-8")
        if model.token_head is not None:
            write_heads(staging / HEADS_FILE, model)
        names = [str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()]
        write_checksums(staging, [name for name in names if name != CARD])  # who adds to the card damages nothing
        files = [path for path in staging.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda p: p.name == WEIGHTS):
            target = folder / path.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(path, target)


def write_heads(path: Path, model: PairEncoder) -> None:
    """Keep the token head's own tensors, so that a later stage starts from them (curriculum)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {k: v.cpu().contiguous() for k, v in model.unique_state().items() if k.startswith("token_head.")}
    save_file(own, path)


def text_limit(model: PairEncoder, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokens the encoder has positions for; RoBERTa's begin after its padding index."""
    limit = tokenizer.model_max_length or 1 << 30
    for name, module in model.body.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            limit = min(limit, module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return int(limit) if limit < 1 << 20 else 512


def base_licence(folder: Path | str) -> str | None:
    """Return the licence that the front matter of the base's README.md states, or None."""
    path = Path(folder) / "README.md"
    if not path.is_file():
        return None
    head = re.match(r"---\n(.*?)\n---", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", head.group(1), re.MULTILINE) if head else None
    return found.group(1) if found else None


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide the result."""
    found = {"recbole_blair": VERSION}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def model_card(
    *,
    base: dict[str, Any],
    licence: str | None,
    settings: dict[str, Any],
    data: dict[str, Any],
    results: dict[str, dict[str, float]],
    pooling: str,
    fresh: list[str],
) -> str:
    """Return README.md: what the encoder is, its data, settings, hashes, results and licence.

    Args:
        base: `name`, `weights_sha256` (None from scratch).
        licence: of the base.
        settings: the resolved keys that decide the result.
        data: counts and the hash of the pairs.
        results: `before` and `after`, metrics of the retrieval.
        fresh: parameters that did not come from the base.
    """
    before = {name: fraction(value) for name, value in results["before"].items()}
    rows = "\n".join(
        f"| {name} | {before.get(name, '–')} | {fraction(value)} |" for name, value in results["after"].items()
    )
    table = f"| metric | before | after |\n|---|---|---|\n{rows}\n" if rows else "No pairs were held out.\n"
    front = ["---", f"license: {licence or 'other'}", f"base_model: {base['name']}", "library_name: transformers"]
    front += ["pipeline_tag: sentence-similarity", "tags:", "- sentence-transformers", "- recommendation", "---"]
    shown = {**settings, "plm": base["name"]}
    listed = "\n".join(f"- `{key}: {value}`" for key, value in sorted(shown.items()) if value is not None)
    versions = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    kind = "(review, item metadata) pairs"
    if "build" in data:
        kind = f"(history, next item) pairs of the training rows of {data['build']}"
    counts = "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in data.items())
    return "\n".join(front) + (
        f"""

# A text encoder for recommendation, trained on {kind}

Continue-pretrained as BLaIR is (arXiv:2403.03952) from `{base["name"]}` (SHA-256 of its weights:
`{base["weights_sha256"]}`). Tensors that started at random: {len(fresh)}{f" (first: {fresh[0]})" if fresh else ""}.

## Use

```python
from transformers import AutoModel, AutoTokenizer      # pool the last hidden state: {pooling}
from sentence_transformers import SentenceTransformer   # the same vectors from encode()
```

Vectors are raw; normalise them for retrieval by cosine.
`recbole-blair encode --dataset=<name> --plm=<this folder>` makes item features of them;
`recbole-blair compare "query" "item one" "item two" --plm=<this folder>` compares texts.

## Results

Each held-out review context against the metadata of every candidate item, by cosine:

{table}
## Data

{counts}

## Settings

{listed}

Versions: {versions}.

## Licence

Of the base: {licence or NO_LICENCE}. The pairs' licence applies to what was learned from them.
"""
    )


def check_encoder_folder(folder: Path | str) -> None:
    """Refuse a folder that holds somebody else's encoder.

    Raises:
        InputError: weights there that no run of ours wrote.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file() and not (folder / "pretraining" / "config.json").is_file():
        raise InputError(
            f"--output_dir={folder} holds an encoder that this command did not write; choose another folder"
        )
