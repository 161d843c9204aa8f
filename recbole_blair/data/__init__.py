"""A build, from text to batches.

- `build.py`: makes the build and the item features where they are missing.
- `interactions.py`: loads a build's rows; `atomic.py` reads the text, `sequences.py` lays rows out as slices of their
  users' sequences, `binary_copy.py` keeps the result for the next time.
- `dataset.py`: what models are built from: rows, sequences, ids, text features.
- `loader.py`: batches of rows, and of whole sequences.
"""
