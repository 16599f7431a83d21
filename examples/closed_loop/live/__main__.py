"""`python -m examples.closed_loop.live`."""

import sys

from examples.closed_loop.live.command import main

sys.exit(main())
