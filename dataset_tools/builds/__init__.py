"""A build folder: its settings, its `stats.json`, and what `--dry_run` says about it."""
