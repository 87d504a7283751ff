"""`python -m yolor_edge`, where the command is not on the path and for launchers that start modules."""

import sys

from .main import main

sys.exit(main())
