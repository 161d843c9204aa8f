"""One file a command: `SUMMARY`, `EXAMPLE`, `configure(parser)`, `run(args) -> int | None`.

Heavy libraries are imported inside `run`, since `--help` imports every file of this room.
"""
