"""`python -m tools.demo`: a small run of everything."""

import sys

from tools.demo.command import main

sys.exit(main())
