"""From the records of runs to a page that opens offline, and to rows for the console; never touches a model.

The package can be called, as `build_report`.
"""

from splitveil.rooms import make_callable

make_callable(__name__, "splitveil.report.build:build_report")
