"""What a conversion holds that may not fit memory: DuckDB sessions, Arrow arrays, buffers that spill to disk."""
