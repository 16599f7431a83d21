import sys

from tools.compare_policies.command import main

sys.exit(main())
