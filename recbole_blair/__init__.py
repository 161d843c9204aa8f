"""Text-based sequential recommendation on RecBole, around BLaIR. Loads neither transformers nor ray."""

from recbole_blair.schema import VERSION

__version__ = VERSION


def load(
    run, new_items=None, *, data_path=None, plm=None, plugin=None, device="auto", precision=None, show_progress=True
):
    """Open a trained run to recommend, score and encode with it.

    Args:
        run (path): a run's folder.
        new_items: items training never saw, to add by their text: a JSONL file or a sequence of mappings; see
            `Recommender.add_items`.
        data_path (path | None): folder of the builds; None: where the run had it.
        plm (str | None): where the text encoder is, for new items; None: where the run had it.
        plugin (path | None): where the file of a model of one's own is; None: where the run had it.
        device (str): auto (CUDA when present), cpu, cuda, cuda:N.
        precision (str | None): fp32, bf16 or auto; None: the run's own.
        show_progress (bool): progress bars on stderr.

    Returns:
        recbole_blair.recommend.recommender.Recommender: `.recommend(users, top=10)` gives a DataFrame,
        `.score(users, items)` (U, M), `.encode(users=…)` or `.encode(items=…)` (n, H) float32 arrays.

    Raises:
        InputError: no run folder; a build, features or an encoder that has gone; a build of another dataset.

    Example:
        >>> recbole_blair.load("runs/games").recommend("AEVPPTMG43C6GWSR7I2UGRQN7WFQ", top=5)  # doctest: +SKIP
    """
    from recbole_blair.recommend.recommender import load as load_recommender

    places = {"data_path": data_path, "plugin": plugin, "device": device, "precision": precision}
    return load_recommender(run, new_items, plm, show_progress, **places)
