"""Records of older formats, brought to the newest as they are read; their files stay as they are.

A model that carries ``format`` names its steps, one from each older format to the next:

```python
class Evaluation(Frozen):
    migrations: ClassVar[Migrations] = {1: _one_score}
    format: Literal[2] = 2
```

A field that comes with a default needs no step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from splitveil.errors import SpecError

__all__ = ["Migrations", "migrated"]

Migrations = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
"""By the format that a step starts from; it returns the data of the next."""


def migrated(model: type[BaseModel], data: Any, source: str) -> Any:
    """Plain data in the newest format of its model; what is no record is left to the model to refuse.

    Args:
        model: with ``format``, else the data is returned as it is.
        data: as read. Without ``format`` it is of the first.
        source: for the message.

    Raises:
        SpecError: of a format that is newer than this version, or none at all.

    Example:
        >>> from typing import ClassVar, Literal
        >>> class Point(BaseModel):
        ...     migrations: ClassVar[Migrations] = {1: lambda old: {"x": old["left"]}}
        ...     format: Literal[2] = 2
        ...     x: int
        >>> migrated(Point, {"left": 3}, "point.json")
        {'x': 3, 'format': 2}
    """
    if "format" not in model.model_fields or not isinstance(data, dict):
        return data
    newest = int(model.model_fields["format"].default)
    found = data.get("format", 1)
    if type(found) is not int or found < 1:
        raise SpecError(f"{source}: expected a format from 1 to {newest}, got {found!r}: is it a file of splitveil?")
    if found > newest:
        raise SpecError(
            f"{source}: expected a format up to {newest}, got {found}: a newer splitveil wrote it; "
            "upgrade with  pip install --upgrade splitveil"
        )
    steps: Migrations = getattr(model, "migrations", {})
    for number in range(found, newest):
        data = {**steps[number]({key: value for key, value in data.items() if key != "format"}), "format": number + 1}
    return data
