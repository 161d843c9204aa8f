"""Text-based sequential recommendation on RecBole, around BLaIR. Loads neither transformers nor ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.schema import VERSION

if TYPE_CHECKING:
    from recbole_blair.recommend.recommender import NewItems, Recommender

__version__ = VERSION


def load(
    run: Path | str,
    new_items: NewItems | None = None,
    *,
    data_path: Path | str | None = None,
    plm: Path | str | None = None,
    plugin: Path | str | None = None,
    device: str = "auto",
    precision: str | None = None,
    ops: str | None = None,
    show_progress: bool = True,
) -> Recommender:
    """Open a trained run to recommend, score and encode with it.

    Args:
        run: a run's folder, or `org/name` (`org/name@revision`) of one that `recbole-blair push` sent to the hub.
        new_items: items training never saw, to add by their text: a JSONL file or a sequence of mappings; see
            `Recommender.add_items`.
        data_path: folder of the builds; None: where the run had it, or the items that a run from the hub brings.
        plm: where the text encoder is, for new items; None: where the run had it.
        plugin: where the file of a model of one's own is; None: where the run had it.
        device: auto (CUDA when present), cpu, cuda, cuda:N.
        precision: fp32, bf16 or auto; None: the run's own.
        ops: fast, or plain: the definitions of recbole_blair/ops/plain.py; None: the run's own.
        show_progress: progress bars on stderr.

    Returns:
        `.recommend(users, top=10)` gives a DataFrame, `.score(users, items)` (U, M), `.encode(users=…)` or
        `.encode(items=…)` (n, H) float32 arrays.

    Raises:
        InputError: no run folder, or a damaged one; a build, features or an encoder that has gone; a build of another
            dataset.

    Example:
        >>> import recbole_blair
        >>> from recbole_blair.quick_start import run
        >>> keys = {"plm": "tfidf-svd", "epochs": 2, "output_dir": "runs/first"}
        >>> metrics = run("UniSRecBlair", "sample", **keys)  # doctest: +SKIP
        >>> print(metrics["test"]["ndcg@10"])  # doctest: +SKIP
        >>> visitor = {"user_id": "a visitor", "item_id_list": ["B0S363ZZZA", "B0SDKG8KX6"]}
        >>> print(recbole_blair.load("runs/first").recommend([visitor], top=5))  # doctest: +SKIP
    """
    # heavy: loads torch
    from recbole_blair.recommend.recommender import load as load_recommender
    from recbole_blair.runs.open_run import Places

    places = Places(data_path=data_path, plugin=plugin, device=device, precision=precision, ops=ops)
    return load_recommender(run, new_items, plm, show_progress, places)
