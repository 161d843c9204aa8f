"""`python -m dataset_tools.pools` draws candidate pools."""

import sys

from dataset_tools.pools.candidate_pools import main

sys.exit(main())
