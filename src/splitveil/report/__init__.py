"""From the records of runs to a page that opens offline, and to rows for the console; never touches a model.

The package can be called, as `build_report`: ``splitveil.report`` names the function and this room, and Python binds
the name to the room as soon as anything in it is imported.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from splitveil.report.build import build_report

        return build_report(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableRoom
