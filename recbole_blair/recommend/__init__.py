"""A trained run in use: the best items for users, scores and vectors, items that training never saw."""
