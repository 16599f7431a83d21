"""`python -m jobs.backfill`."""

import sys

from jobs.backfill.command import main

sys.exit(main())
