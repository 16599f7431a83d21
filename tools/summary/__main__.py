import sys

from tools.summary.command import main

sys.exit(main())
