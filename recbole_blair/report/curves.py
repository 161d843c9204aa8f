"""Learning curves of a run, from the TensorBoard events in its folder."""

import logging


def load_curves(folder, valid_metric):
    """Read the training loss and the validation metric of every epoch.

    Epochs that a resumed run repeated occur once, as they were the last time.

    Args:
        folder (Path): a run folder.
        valid_metric (str): the metric that chose the best epoch, as in `ndcg@10`.

    Returns:
        dict: `loss` and `valid`, lists of [epoch, value]; None when the folder holds no events.
    """
    if not any(folder.glob("events.out.tfevents.*")):
        return None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it counts the repeated epochs aloud
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    names = {"loss": "train/loss", "valid": f"valid/{valid_metric}"}
    tags = events.Tags()["scalars"]
    return {key: last_values(events.Scalars(tag)) if tag in tags else [] for key, tag in names.items()}


def last_values(scalars):
    """Return [step, value] in step order, the latest value of each step."""
    latest = {}
    for scalar in sorted(scalars, key=lambda scalar: scalar.wall_time):
        latest[scalar.step] = scalar.value
    return [[step, latest[step]] for step in sorted(latest)]
