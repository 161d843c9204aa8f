"""Product search: read a pool and its queries, rank the pool for each query, score, compare, build a test set."""
