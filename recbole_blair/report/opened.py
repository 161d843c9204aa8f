"""Opens runs for a report without making what is missing: what is gone is named."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_blair import compat
from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.quick_start import build_model, runtime_config
from recbole_blair.registry import find_model
from recbole_blair.report.paired import metric_of_rows
from recbole_blair.runs.finished_run import evaluate_opened
from recbole_blair.schema import SPLITS
from recbole_blair.train import checkpoint

RANKS = "ranks.parquet"


class Opener:
    """Datasets, models and ranks of runs; a data set that several runs share is opened once.

    Args:
        data_path (str): folder of the builds; None: as each run's config.yaml says.
        device (str): auto, cpu, cuda …
    """

    def __init__(self, data_path=None, device="auto"):
        self.data_path, self.device = data_path, device
        self.datasets = {}

    def dataset(self, run, with_text=False):
        """Return a run's data set, with its text features when asked.

        Raises:
            InputError: the build or the features are gone, or no longer what the run saw.
        """
        folder = Path(self.data_path or run.config["data_path"]) / run.metrics["dataset"]
        encoder = run.metrics.get("encoder") if with_text else None
        scale = run.config.get("feature_scale", "raw")
        key = (folder, encoder, scale)
        if key in self.datasets:
            return self.datasets[key]
        if not all((folder / f"{folder.name}.{split}.inter").is_file() for split in SPLITS):
            raise InputError(f"the data of {run.metrics['dataset']} is not in {folder}; --data_path says where it is")
        dataset = BlairDataset(folder)
        found = (dataset.n_items - 1, len(dataset.rows["test"]))
        wanted = (run.metrics["n_items"], run.metrics["rows"]["test"])
        if found != wanted:
            raise InputError(
                f"{folder} holds another build now: {found[0]} items and {found[1]} test rows, where the run had "
                f"{wanted[0]} and {wanted[1]}"
            )
        if encoder:
            dataset.load_text_features(encoder, scale=scale)
        self.datasets[key] = dataset
        return dataset

    def model(self, run):
        """Return (Config, model with the best weights, BlairDataset) of a run, as `load_run` does.

        Raises:
            InputError: its weights, data, features or plugin are gone.
        """
        if not (run.folder / checkpoint.CHECKPOINT / checkpoint.BEST).is_file():
            raise InputError(f"the weights of {run.name} are gone: it has no {checkpoint.CHECKPOINT}/{checkpoint.BEST}")
        compat.apply()
        info = find_model(run.config["model"])
        saved = {k: v for k, v in run.config.items() if k not in ("model", "dataset")}
        saved.update(device=self.device, output_dir=str(run.folder))
        config = runtime_config(resolve_config(info, run.config["dataset"], (), saved))
        dataset = self.dataset(run, with_text=True)
        model = build_model(info, config, dataset)
        checkpoint.fit_weights(model, run.folder, f"{info.name} on {dataset.build_dir}")
        return config, model.eval(), dataset

    def ranks(self, run, evaluate=True):
        """Return the rank of every test row's target, from ranks.parquet or by evaluating the run again.

        Returns:
            dict: `rank` (R,) float64, `user` and `item` (R,) pyarrow string arrays, `length` (R,) int64, and `gap`, the
            largest difference of its metrics from metrics.json; None when it is the file.

        Raises:
            InputError: no file, and evaluation is off or not possible; or a file of other rows than metrics.json.
        """
        path = run.folder / RANKS
        if path.is_file():
            return self.saved_ranks(run, path)
        if not evaluate:
            raise InputError(f"{run.name} has no {RANKS} and was not evaluated again (train it with --save_ranks=True)")
        config, model, dataset = self.model(run)
        metrics, rank = evaluate_opened(config, model, dataset, "test")
        gap = max(abs(metrics[m] - v) for m, v in run.metrics["test"].items() if m in metrics)
        rows = dataset.rows["test"]
        return {
            "rank": rank,
            "user": dataset.user_tokens.take(pa.array(np.asarray(rows.user) - 1)),
            "item": dataset.item_tokens.take(pa.array(dataset.seq_items[rows.target] - 1)),
            "length": np.asarray(rows.length, np.int64),
            "gap": gap,
        }

    def saved_ranks(self, run, path):
        """Read ranks.parquet and check it against metrics.json."""
        try:
            table = pq.read_table(path, columns=["user_id", "item_id", "history_length", "rank"]).combine_chunks()
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}); delete it") from error
        rank = table["rank"].to_numpy()
        for metric, value in run.metrics["test"].items():
            ours = float(metric_of_rows(rank, metric).mean()) if len(rank) else float("nan")
            if not abs(ours - value) < 1e-9:
                raise InputError(
                    f"{path} is not of the evaluation in {checkpoint.METRICS}: its {metric} is {ours:.6f}, there it is "
                    f"{value:.6f}; delete it"
                )
        columns = {key: table[name].combine_chunks() for key, name in (("user", "user_id"), ("item", "item_id"))}
        return {"rank": rank, **columns, "length": table["history_length"].to_numpy().astype(np.int64), "gap": None}


def check_same_rows(ranks):
    """Refuse runs whose ranks are of other rows or another order.

    Args:
        ranks (list of (Run, dict)): as `Opener.ranks` returns.

    Raises:
        InputError: names the first run that differs from the first one.
    """
    (first, base), *others = ranks
    for run, own in others:
        if not (own["user"].equals(base["user"]) and own["item"].equals(base["item"])):
            raise InputError(f"{run.name} ranked other test rows than {first.name}, so they cannot be paired")
