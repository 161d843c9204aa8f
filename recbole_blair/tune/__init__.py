"""Sweeps with Ray Tune: search spaces in YAML, a checkpoint and a report every epoch, a page of the results."""
