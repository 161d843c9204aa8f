"""Trained runs at work: top items for users, scores and vectors, items that training never saw."""
