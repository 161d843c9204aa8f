"""Raw files: which there are, where they come from, how they are read.

- `domains.py`: names of datasets and places of their files.
- `fetch.py`: the files at hand, or else downloaded (`download.py`) or generated (`sample.py`, `sample_text.py`).
- `raw_files.py`: JSON lines: is the gzip whole, are lines broken.
- `own_formats.py`: CSV, JSON lines, Parquet and Python literals of any shop or public log.
"""
