"""Counts of raw files: `raw_counts.py` counts them, `published.py` holds them beside the papers' figures."""
