import sys

from tools.generate.command import main

sys.exit(main())
