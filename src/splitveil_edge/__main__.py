"""``python -m splitveil_edge``, and the command ``splitveil-edge``."""

from __future__ import annotations

import sys

from splitveil_edge.cli import main


def run() -> None:
    """Run the command line and exit."""
    sys.exit(main())


if __name__ == "__main__":
    run()
