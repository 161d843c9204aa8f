"""`tune --dry_run`: what would be tried, with what; nothing is started or written."""

from __future__ import annotations

from recbole_blair.parallel.ray_cluster import local_cpus, local_gpus
from recbole_blair.tune.run import Sweep, resources_per_trial


def print_dry_run(sweep: Sweep) -> int:
    """Print the sweep's settings, its space and one line per trial.

    Raises:
        InputError: more resources than this machine has, when Ray would be started here.
    """
    options = sweep.settings
    print(f"sweep      {sweep.info.name} on {sweep.dataset} in {sweep.folder}")
    print(f"search     {options['search']}, by {sweep.metric} of the validation rows")
    print(f"scheduler  {describe_scheduler(sweep)}")
    if options["ray_address"]:
        print(f"runs on    the Ray cluster at {options['ray_address']}, not asked now")
    else:
        here = options["ray_cpus"] or local_cpus(), local_gpus()
        cpus, gpus = resources_per_trial(sweep, *here)
        fit = int(min(here[0] // cpus, here[1] // gpus if gpus else here[0]))
        fit = min(fit, options["max_concurrent"] or fit)
        print(f"runs on    {here[0]} CPUs and {here[1]} GPUs here, {cpus} and {gpus:g} a trial: {fit} at a time")
    for entry in sweep.space.entries:
        condition = "".join(f"  when {key} is {' or '.join(map(str, v))}" for key, v in entry.when.items())
        print(f"space      {entry.key}: {entry.kind} {entry.values}{condition}")
    for trial in sweep.trials:
        point = "  ".join(f"{key}={value}" for key, value in trial.point.items()) or "the model's defaults"
        print(f"trial {trial.number:>4}  {trial.status:10} {point}")
    if options["search"] == "optuna":
        print(f"           {options['num_samples'] - len(sweep.trials)} points that Optuna chooses as it goes")
    return 0


def describe_scheduler(sweep: Sweep) -> str:
    """Return one line about the scheduler."""
    options, epochs = sweep.settings, sweep.base["epochs"]
    if options["scheduler"] == "asha":
        rungs, rung = [], options["grace_period"]
        while rung <= epochs:
            rungs.append(rung)
            rung *= options["reduction_factor"]
        if not rungs:
            return f"asha: stops none of {epochs} epochs before grace_period={options['grace_period']}"
        return f"asha: looks after epochs {rungs} of {epochs}, one in {options['reduction_factor']} goes on"
    if options["scheduler"] == "pbt":
        return f"pbt: looks every {options['perturbation_interval']} epochs of {epochs}"
    return f"none: every trial has {epochs} epochs, or fewer by stopping_step={sweep.base['stopping_step']}"
