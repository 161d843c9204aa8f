"""What a person sees: messages above the progress bars, log files, result tables."""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from recbole_blair.figures import fraction
from recbole_blair.parallel.launch import is_first_process

if TYPE_CHECKING:
    from rich.table import Table


def say(message: str) -> None:
    """Print a line above the progress bars; of several processes the first one prints."""
    if is_first_process():
        tqdm.write(message, file=sys.stderr)


class BarHandler(logging.Handler):
    """Log records above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(self.format(record))


@contextlib.contextmanager
def run_logger(run_dir: Path | str) -> Iterator[logging.Logger]:
    """Yield a logger that writes to the screen and to `<run_dir>/log.txt`; not RecBole's, which writes to the cwd."""
    log = logging.getLogger(f"recbole_blair.run.{Path(run_dir).resolve()}")
    log.propagate = False
    log.setLevel(logging.INFO)
    file = logging.FileHandler(Path(run_dir) / "log.txt" if is_first_process() else os.devnull, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    screen = BarHandler()
    log.handlers[:] = [file, screen]
    try:
        yield log
    except Exception as error:
        assert file.stream is not None  # open until `close` below
        file.stream.write(f"stopped by {type(error).__name__}: {error}\n")
        raise
    finally:
        file.close()
        log.handlers.clear()


def results_table(results: Sequence[dict[str, Any]]) -> Table:
    """Build the table of runs: one line per model, mean and deviation over its seeds, test metrics as fractions."""
    from rich import box  # heavy, as Table
    from rich.table import Table

    columns = shown_metrics(results[0]["test"])
    title = f"test on {results[0]['dataset']}: {results[0]['rows']['test']} rows, {results[0]['n_items']} items"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("seeds", *columns, "epochs", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    models = list(dict.fromkeys(r["model"] for r in results))
    means = {m: [statistics.mean(r["test"][c] for r in results if r["model"] == m) for c in columns] for m in models}
    best = [max(means[m][i] for m in models) for i in range(len(columns))]
    for model in models:
        runs = [r for r in results if r["model"] == model]
        cells = [cell([r["test"][c] for r in runs], best[i], len(models) > 1) for i, c in enumerate(columns)]
        seconds = statistics.mean(sum(r["seconds"].values()) for r in runs)
        epochs = statistics.mean(r["epochs"] for r in runs)
        table.add_row(model, str(len(runs)), *cells, f"{epochs:.0f}", f"{seconds:.0f}")
    return table


def shown_metrics(metrics: dict[str, float]) -> list[str]:
    """Return what a table has room for: hit only without recall, which it equals; mrr@k only without mrr."""
    names = [n for n in metrics if not (n.startswith("mrr@") and "mrr" in metrics)]
    return [n for n in names if not (n.startswith("hit@") and n.replace("hit", "recall") in metrics)]


def cell(values: Sequence[float], best: float, mark: bool) -> str:
    """Return a table cell: the mean, and below it the deviation when there are several seeds; the best mean is bold."""
    mean = statistics.mean(values)
    text = f"[bold]{fraction(mean)}[/bold]" if mark and mean == best else fraction(mean)
    return f"{text}\n±{fraction(statistics.stdev(values))}" if len(values) > 1 else text


def describe_repeats(result: dict[str, Any]) -> str:
    """Return what evaluation did with targets that are in their history; nothing for a build that has none."""
    repeats, rows = result.get("test_targets_in_history"), result["rows"]["test"]
    if repeats is None:
        return ""
    how = ", where each is ranked all the same" if result["history_masked"] else ""
    return f"; repeats kept: {repeats:,} of {rows:,} test targets are in their history{how}"


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """Print the table, and what it depends on, to the standard output."""
    from rich.console import Console  # heavy

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(results_table(results))
    first = results[0]
    encoders = sorted({r["encoder"] for r in results if r["encoder"]})
    console.print(
        f"full ranking, history {'masked' if first['history_masked'] else 'not masked'}{describe_repeats(first)}; "
        f"{first['ties']}; "
        f"features: {', '.join(encoders) or 'none'}; {first['device']}, {first['precision']}"
    )
    for folder in sorted({str(Path(r["output_dir"])) for r in results}):
        console.print(f"  {folder}", soft_wrap=True)
