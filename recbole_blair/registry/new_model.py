"""Writes the files of a new recommender from a template that trains, evaluates and keeps the contract as it is."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from recbole_blair.errors import InputError
from recbole_blair.files.paths import PACKAGE_DIR
from recbole_blair.files.write import write_text
from recbole_blair.registry import list_models, unsupported_models

MODEL = '''"""{name}: a recommender over frozen item text."""

import torch
import torch.nn.functional as F

from recbole_blair.losses import full_softmax_loss
from recbole_blair.model.dot_product import DotProductRecommender
from recbole_blair.model.adaptors import MLPAdaptor


class {name}(DotProductRecommender):
    """Users are a layer over the mean of their history's items, later ones weighing more; items are an MLP of text."""

    uses_text = True  # the item texts are encoded before training, and dataset.text_features holds the result

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.temperature, self.compute_dtype = config["temperature"], config["compute_dtype"]
        features = dataset.text_features.to(self.compute_dtype)  # (N - 1, D): row i - 1 is item i
        self.register_buffer("text_features", features, persistent=False)
        sizes = [features.shape[1], *config["adaptor_hidden_sizes"], config["hidden_size"]]
        self.adaptor = MLPAdaptor(sizes, config["adaptor_dropout_prob"])
        self.user_layer = torch.nn.Linear(config["hidden_size"], config["hidden_size"])
        self.recency = torch.nn.Parameter(torch.tensor(0.5))  # how much an item outweighs the one before

    def project_items(self, items=None):
        """Return the vectors of items `items` (M,), ids from 1, or of all: (M, H) or (N - 1, H)."""
        return self.adaptor(self.text_features if items is None else self.text_features[items - 1], self.compute_dtype)

    def item_vectors(self, projected=None):
        """Return the vectors of all items, (N, H); row 0, the padding item, is zero."""
        projected = self.project_items() if projected is None else projected
        return F.pad(F.normalize(projected.float(), dim=1), (0, 0, 1, 0))

    def user_vectors(self, interaction, projected=None):
        """Return the vectors of the histories, (B, H)."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]  # (B, L) 0 = padding, (B,)
        vectors = self.item_vectors(projected)[item_seq]  # (B, L, H)
        age = length[:, None] - 1 - torch.arange(item_seq.shape[1], device=item_seq.device)  # 0 = the last item
        weight = torch.exp(-F.softplus(self.recency) * age) * (item_seq > 0)
        mean = (weight[:, :, None] * vectors).sum(1) / weight.sum(1, keepdim=True)  # (B, H)
        return F.normalize(self.user_layer(mean).float(), dim=1)

    def calculate_loss(self, interaction):
        """Return the cross-entropy of the next item over all items, a scalar."""
        projected = self.project_items()  # every item once a step, however often it occurs
        users = self.user_vectors(interaction, projected) / self.temperature
        return full_softmax_loss(users, self.item_vectors(projected)[1:], interaction[self.POS_ITEM_ID] - 1)
'''

KEYS = """# {name}: every key that it reads, with its default, its type and range (docs/plugins.md), and its meaning.
hidden_size: 64               # (int, >=1, <=65536) width of items and users
adaptor_hidden_sizes: [128]   # (list of int, >=1, may be empty) widths between the text features and hidden_size
adaptor_dropout_prob: 0.2     # (float, >=0, <1) before each layer of the adaptor
temperature: 0.07             # (float, >0) of the softmax over cosines
"""

TEST = '''"""{name} keeps the contract of every recommender: `pytest test_{lower}.py`."""

from recbole_blair.testing import Contract


class Test{name}(Contract):
    model, plugin = "{name}", "{lower}.py"
'''


def write_model(name: str, folder: Path | str | None = None) -> list[str]:
    """Write `<name>.py` (lower case), `<Name>.yaml` and, outside a checkout, `test_<name>.py`.

    Args:
        name: of the model and its class.
        folder: where; None: the rooms of a checkout that is the current folder, else the current folder.

    Returns:
        what was written and what to do next, one line each.

    Raises:
        InputError: no class name, the name of another model, or a file that is there.
    """
    check_new_name(name)
    lower, root = name.lower(), Path.cwd()
    in_checkout = folder is None and is_checkout(root)
    if in_checkout:
        files = {
            root / "recbole_blair/plugins" / f"{lower}.py": MODEL,
            root / "props/model" / f"{name}.yaml": KEYS,
        }
        test, plugin = f"pytest tests/contract -k {name}", ""
    else:
        base = Path(folder or ".")
        files = {base / f"{lower}.py": MODEL, base / f"{name}.yaml": KEYS, base / f"test_{lower}.py": TEST}
        test, plugin = f"pytest {base / f'test_{lower}.py'}", f" --plugin={base / f'{lower}.py'}"
    texts = {path: template.format(name=name, lower=lower) for path, template in files.items()}
    there = [path for path in files if path.exists()]
    others = [path for path in there if not path.is_file() or path.read_bytes() != texts[path].encode()]
    if others or len(there) == len(files):  # else they are ours, of a command that was killed or met a full disk
        raise InputError(f"{(others or there)[0]} is there already; choose another name or --dir, or delete it")
    for path in files:
        write_text(path, texts[path])
    written = [f"wrote {path.relative_to(root) if path.is_relative_to(root) else path}" for path in files]
    return [
        *written,
        f"test:  {test}",
        f"train: recbole-blair train --model={name}{plugin} --dataset=sample --plm=tfidf-svd",
    ]


def check_new_name(name: str) -> None:
    """Refuse what is no class name, or one that a model has.

    Raises:
        InputError: see there.
    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) or keyword.iskeyword(name):
        raise InputError(f"{name!r} is no name for a model; expected letters and digits, a capital first, as in MyRec")
    taken = {known.lower(): known for known in (*list_models(), *unsupported_models())}
    if name.lower() in taken:
        raise InputError(f"there is a model {taken[name.lower()]} already; choose another name")


def is_checkout(folder: Path) -> bool:
    """Tell whether the folder is the checkout that this package runs from."""
    return (
        PACKAGE_DIR.parent == folder.resolve() and (folder / "props/model").is_dir() and (folder / "setup.py").is_file()
    )
