"""A build: one folder of atomic files, made with one set of settings.

- `settings.py`: what decides the bytes of a build; its name follows from them.
- `statistics_file.py`: `<build>.stats.json`, written last: its presence means that the build is whole.
- `folder.py`: is the build in a folder whole and made with these settings; write one under a temporary name.
- `dry_run.py`: what `--dry_run` prints.
"""
