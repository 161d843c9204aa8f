"""Candidate pools and sampled reviews for product search."""
