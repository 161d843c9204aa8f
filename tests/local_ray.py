"""A real Ray for tests: one of two CPUs in this process, or a cluster of nodes on this machine."""

import contextlib
import itertools

import pytest

from recbole_blair.parallel.ray_cluster import ATTEMPTS, PATIENT, QUIET, environment, ray_cluster

STORE_BYTES = 80 << 20  # the least that Ray takes is 75 MiB
REAL_RAY = [pytest.mark.slow, pytest.mark.xdist_group("ray")]  # one at a time, where pytest-xdist groups tests


def real_ray(test):
    """Mark a test that starts Ray."""
    for mark in REAL_RAY:
        test = mark(test)
    return test


def nodes_of_ray(test):
    """Mark a test that starts nodes: Ray gives each 30 s, which nothing can change, and a busy machine needs longer."""
    return pytest.mark.heavy(pytest.mark.xdist_group("ray")(test))


@contextlib.contextmanager
def two_cpus():
    """Start Ray once for several tests: a command that would start its own uses the connection there is."""
    with ray_cluster(None, 2, 0, object_store_mb=STORE_BYTES >> 20) as cluster:
        yield cluster


@contextlib.contextmanager
def local_cluster(*cpus):
    """A cluster that runs, of one node a number of CPUs; this process is not connected to it.

    Yields:
        (ray.cluster_utils.Cluster, list): the cluster and its nodes, the head first.
    """
    with environment({**QUIET, **PATIENT}):
        cluster, nodes = start_nodes(cpus)
        try:
            yield cluster, nodes
        finally:
            cluster.shutdown()


def start_nodes(cpus):
    """Start a cluster's nodes, again if Ray gave one up: it waits 30 s for a node, which a busy machine may exceed."""
    from ray.cluster_utils import Cluster

    for attempt in itertools.count(1):
        cluster = Cluster()
        try:
            own = {"num_gpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
            return cluster, [cluster.add_node(num_cpus=n, **own) for n in cpus]
        except Exception as error:
            cluster.shutdown()
            if "timed out during startup" not in str(error) or attempt == ATTEMPTS:
                raise
