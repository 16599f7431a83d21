"""`python -m tools.generate`: events to try a pipeline on."""

import sys

from tools.generate.command import main

sys.exit(main())
