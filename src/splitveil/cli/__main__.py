"""``python -m splitveil.cli``."""

from splitveil.cli import main

main()
