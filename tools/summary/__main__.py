"""`python -m tools.summary`: what an output holds."""

import sys

from tools.summary.command import main

sys.exit(main())
