"""`python -m tools.try_mapping`: what records become by a pipeline's mapping."""

import sys

from tools.try_mapping.command import main

sys.exit(main())
