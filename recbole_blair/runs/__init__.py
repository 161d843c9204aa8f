"""Run folders: opening a finished run, and what `--dry_run` says about one that is not there yet."""
