"""A sweep over a cluster that runs already."""

import pytest
from local_ray import local_cluster, nodes_of_ray
from sweeps import MODEL, flags

from recbole_blair.cli.main import main
from recbole_blair.parallel.ray_cluster import ray_cluster

pytest.importorskip("ray", reason="the extra tune is not installed")


@nodes_of_ray
def test_a_cluster_that_runs_is_used_and_left_running(sweep_keys, space_file, tmp_path, capfd):
    keys = {**sweep_keys, "epochs": 2, "space": space_file, "num_samples": 2, "output_dir": tmp_path / "sweep"}
    with local_cluster(2) as (cluster, _):
        address = cluster.address
        argv = ["tune", *MODEL, *flags(keys), f"--ray_address={address}"]
        assert main([*argv, "--cpus_per_trial=3"]) == 2
        assert "cpus_per_trial=3, but there are 2 CPUs" in capfd.readouterr().err
        assert main([*argv, "--gpus_per_trial=1"]) == 2
        assert "gpus_per_trial=1, but there are 0 GPUs" in capfd.readouterr().err
        assert not (tmp_path / "sweep").exists()
        assert main(argv) == 0
        assert "best: trial" in capfd.readouterr().out
        with ray_cluster(address) as found:  # still there
            assert (found.nodes, found.cpus, found.started_here) == (1, 2, False)
    assert main(argv) == 2
    assert f"no Ray cluster answers at ray_address={address}" in capfd.readouterr().err
