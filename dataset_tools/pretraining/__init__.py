"""What a text encoder is pretrained on.

- `review_pairs.py`: (review, metadata of its item) pairs, written in Parquet shards.
- `contamination.py`: what of validation and test occurs in such pairs.
"""
