"""`python -m tools.audit`: whether every record of a run is accounted for."""

import sys

from tools.audit.command import main

sys.exit(main())
