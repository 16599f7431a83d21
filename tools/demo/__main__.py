import sys

from tools.demo.command import main

sys.exit(main())
