"""`python -m tools.list_files`: which files hold the rows of a table."""

import sys

from tools.list_files.command import main

sys.exit(main())
