"""One line every half a minute while a sweep works: which trials run, and the best value so far."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from recbole_blair.figures import fraction
from recbole_blair.train.display import say
from recbole_blair.tune import sweep_dir as files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recbole_blair.tune.run import Sweep

BEAT_S = 30.0  # seconds between two lines


@contextlib.contextmanager
def heartbeat(sweep: Sweep, every_s: float = BEAT_S) -> Iterator[None]:
    """Print `describe_progress` every `every_s` seconds until the block ends."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every_s):
            with contextlib.suppress(OSError, ValueError, KeyError):  # a file that is being replaced: the next time
                say(describe_progress(sweep))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def describe_progress(sweep: Sweep) -> str:
    """Return how many trials are over, what the others do, and the best value so far."""
    trials = files.load_trials(sweep.folder) if (sweep.folder / files.TRIALS).is_dir() else []
    total = sweep.settings["num_samples"] if sweep.settings["search"] == "optuna" else len(sweep.trials)
    ended = sum(trial.over for trial in trials)
    if not any(trial.lines for trial in trials):
        return f"sweep: {ended} of {total} trials over; data are made, or the first trials start"
    if ended == total:
        return f"sweep: {ended} of {total} trials over; the best one's test rows are evaluated"
    running = ", ".join(f"{t.number} after epoch {t.lines[-1]['epoch']}" for t in trials if t.lines and not t.over)
    best = max(trials, key=lambda trial: trial.best_value(sweep.metric))
    value = f"; best {sweep.metric} {fraction(best.best_value(sweep.metric))} (trial {best.number})"
    value = value if best.best(sweep.metric) else ""
    return f"sweep: {ended} of {total} trials over{f'; trial {running}' if running else ''}{value}"
