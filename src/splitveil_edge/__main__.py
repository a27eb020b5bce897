"""``python -m splitveil_edge``."""

import sys

from splitveil_edge.cli import main

sys.exit(main())
