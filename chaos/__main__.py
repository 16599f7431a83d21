"""`python -m chaos`: make faults, and compare the rows with the truth after each."""

import sys

from chaos.command import main

sys.exit(main())
