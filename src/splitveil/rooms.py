"""Packages that can be called: a room of the house and the function of the same name are one thing.

``splitveil.report`` names a function and a package, and Python binds the name to the package as soon as anything in it
is imported; so the package itself is made to call the function.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["make_callable"]


def make_callable(name: str, target: str) -> None:
    """Let the module `name` be called as ``package.module:function`` is, which is imported at the first call.

    Example:
        >>> import splitveil.report
        >>> callable(splitveil.report)
        True
    """
    module_name, _, function = target.partition(":")

    class CallableRoom(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(module_name), function)(*args, **kwargs)

    sys.modules[name].__class__ = CallableRoom
