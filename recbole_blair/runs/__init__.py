"""Run folders: opening a trained run, evaluating it again, and what `--dry_run` says of one that is not there yet."""
