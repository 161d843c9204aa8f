"""Counts of raw files beside the published figures."""
