import sys

from tools.audit.command import main

sys.exit(main())
