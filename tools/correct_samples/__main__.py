import sys

from tools.correct_samples.command import main

sys.exit(main())
