"""Text vectors of items for a recommender: rows of a frozen encoder's features, or an encoder that trains with it.

- `item_texts.py`: the one interface, `item_texts(items) -> (M, D)`, of frozen and of trained texts.
- `choice.py`: what `train_encoder` asks for, and what it is refused with.
- `layers.py`: which layers are trained: the last ones, low-rank updates of all, or all.
- `ragged_rows.py`: token ids, or hidden states below the trained layers, memory-mapped in `.cache/`.
- `source.py`: from a configuration's keys to an encoder that is ready to train.
- `memory.py`: what training will need, compared with what is there before it starts.
- `export.py`: the trained encoder as a whole folder, and its features.
"""
