"""`python -m tools.advise_window`: how long to wait for the labels of each kind of action."""

import sys

from tools.advise_window.command import main

sys.exit(main())
