"""`python -m tools.correct_samples`: corrections from late actions."""

import sys

from tools.correct_samples.command import main

sys.exit(main())
