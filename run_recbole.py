#!/usr/bin/env python3
"""Train and evaluate, as `recbole-blair train`: `python run_recbole.py --model=UniSRecBlair --dataset=Games`."""

import sys

from recbole_blair.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
