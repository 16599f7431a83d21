"""`python -m tools.compare_policies`: what each emission policy costs and gives."""

import sys

from tools.compare_policies.command import main

sys.exit(main())
