"""`python -m tools.infer_schema`: the features that a sample of records has."""

import sys

from tools.infer_schema.command import main

sys.exit(main())
