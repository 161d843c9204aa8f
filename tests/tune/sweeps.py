"""What the tests of sweeps share: command lines, what a folder holds, processes."""

import time

from recbole_blair.tune import sweep_dir as files

MODEL = ["--model=SASRecText", "--dataset=tiny"]


def flags(keys):
    """Write keys as a command line."""
    return [f"--{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in keys.items()]


def tune_argv(folder, keys, **options):
    """The command line of a sweep on two CPUs."""
    return ["tune", *MODEL, *flags({**keys, "ray_cpus": 2, "output_dir": folder, **options})]


def points(folder):
    """Return {number: point} of a sweep's folder."""
    return {trial.number: trial.point for trial in files.load_trials(folder)}


def statuses(folder):
    """Return {number: status} of a sweep's folder."""
    return {trial.number: trial.status for trial in files.load_trials(folder)}


def epochs_of(folder, number):
    """Return the epochs of a trial as its process wrote them, in order."""
    return [line["epoch"] for line in files.read_progress(files.trial_dir(folder, number)) if "adopted" not in line]


def wait_for(condition, limit_s, what):
    """Wait until `condition()` is true and return what it gave."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come within {limit_s} s"
        time.sleep(0.02)
    return found


def descendants(pid=None):
    """Return the processes below one, by default this one."""
    import psutil

    return [p for p in psutil.Process(pid).children(recursive=True) if name_if_alive(p, psutil)]


def assert_none_left(processes, limit_s=60):
    """Wait until the processes are gone."""
    import psutil

    end = time.monotonic() + limit_s
    while left := [named for process in processes if (named := name_if_alive(process, psutil))]:
        assert time.monotonic() < end, f"still there after {limit_s} s: {left}"
        time.sleep(0.1)


def name_if_alive(process, psutil):
    """The command line of a process that has not ended, or nothing."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline())[:80]
    except psutil.NoSuchProcess:
        return None
