"""Options that several commands share."""

from recbole_blair.errors import InputError

RAY_ONLY = ("ray_address", "ray_cpus", "report_usage")


def add_ray_options(parser):
    """Add --engine and what says which Ray."""
    parser.add_argument(
        "--engine", default="local", choices=("local", "ray"), help="ray: over a cluster, docs/scaling.md"
    )
    parser.add_argument(
        "--ray_address", default=None, help="auto or host:port of a cluster; empty: one is started here"
    )
    parser.add_argument("--ray_cpus", type=int, default=None, help="CPUs of the one started here; empty: all there are")
    parser.add_argument("--report_usage", action="store_true", help="let Ray send its usage statistics")


def ray_options(engine, given, more=()):
    """Return the RayOptions of a command line, or None for engine=local.

    Args:
        engine (str): local or ray.
        given (dict): the command's options.
        more (sequence of str): options of the command that only engine=ray has.

    Raises:
        InputError: an option that only engine=ray has, without it.
    """
    if engine == "ray":
        from recbole_blair.parallel.ray_cluster import RayOptions

        if given.get("ray_cpus") is not None and given["ray_cpus"] < 1:
            raise InputError(f"--ray_cpus={given['ray_cpus']} must be at least 1")
        return RayOptions(given.get("ray_address"), given.get("ray_cpus"), bool(given.get("report_usage")))
    for key in (*RAY_ONLY, *more):
        if given.get(key):
            raise InputError(f"--{key}={given[key]} belongs to --engine=ray; add that, or leave it out")
    return None
