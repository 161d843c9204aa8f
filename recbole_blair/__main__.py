"""`python -m recbole_blair` is the console script `recbole-blair`."""

import sys

from recbole_blair.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
