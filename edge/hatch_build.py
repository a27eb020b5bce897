"""The package's source lies beside that of splitveil in a checkout, and within this folder in its own sdist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PACKAGE = "splitveil_edge"


class SourceHook(BuildHookInterface[Any]):
    """Adds the package where it is not found by its name."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before each build."""
        if not (Path(self.root) / _PACKAGE).is_dir():
            build_data["force_include"][str(Path(self.root).parent / "src" / _PACKAGE)] = _PACKAGE
