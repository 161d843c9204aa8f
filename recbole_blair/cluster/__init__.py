"""Encoding, conversion and pretraining over a Ray cluster: the same work and the same files as on one machine."""
