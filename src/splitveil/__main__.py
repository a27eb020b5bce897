"""``python -m splitveil``."""

from splitveil.cli import main

main()
