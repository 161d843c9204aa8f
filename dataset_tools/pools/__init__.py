"""What product search is tested on: candidate pools, and reviews to make queries of.

- `candidate_pools.py`: which items are drawn for each query; `pool_parts.py` reads and writes them domain by domain.
- `five_star_reviews.py`: reviews that an LLM rewrites into queries.
- `__main__.py`: the command `python -m dataset_tools.pools`.
"""
