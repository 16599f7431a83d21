import sys

from tools.advise_window.command import main

sys.exit(main())
