"""Data sets of the hub, by the library `datasets`: by name, from its cache, or from a folder that it saved."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from splitveil.data.gathering import gather_pictures
from splitveil.data.images import Picture
from splitveil.data.reading import PLAIN, Reading
from splitveil.data.tables import Source, make_source
from splitveil.data.targets import make_bare_source, make_valued_source
from splitveil.errors import InputError, MissingDataError, MissingExtraError, SpecError

__all__ = ["load_hub"]

_SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
_LABELS = ("label", "fine_label", "labels", "target")
_ROWS = 256


def load_hub(path: Path | None, *, reading: Reading = PLAIN) -> Source:
    """A data set of the hub as a source.

    ``validation``, or ``valid``, is added to ``train``; ``test`` is the test table. Classes, values (a column of
    numbers with a point) and pictures alone are told apart by the features that the data set declares.

    Args:
        path: ``user/name`` or ``user/name:configuration``, or a folder of ``save_to_disk``. A name is looked for in the
            library's cache first, and then on the hub.
        reading: how.

    Raises:
        MissingExtraError: the library is not installed.
        MissingDataError: no such data set, here or there.
        SpecError: no column of pictures, or several candidates for labels.
        InputError: pictures that are not embedded.
    """
    if path is None:
        raise SpecError("source 'hub' expects a name, got none: write hub:user/name, or hub:folder")
    if find_spec("datasets") is None:
        raise MissingExtraError("datasets", "hub", f"the data set 'hub:{path}'")
    library = import_module("datasets")
    parts = _parts(_open(library, str(path)), str(path))
    learn = [parts["train"], *(table for name, table in parts.items() if name.startswith("val"))]
    tables = [*learn, *([parts["test"]] if "test" in parts else [])]
    image, label = _columns(library, learn[0])
    lengths = [len(table) for table in tables]
    count = sum(len(table) for table in learn)
    gathered = gather_pictures(
        _pictures(library, tables, image), sum(lengths), reading, lambda: "-".join(part._fingerprint for part in tables)
    )
    name = Path(str(path)).name
    if label is None:
        return make_bare_source(name, *gathered.parts(count, "test" in parts), skipped=gathered.skipped)
    known = torch.cat([_column(table, label) for table in tables])
    if known.dtype == torch.float32:
        first, second = gathered.parts(count, "test" in parts)
        values = known[gathered.kept]
        other = None if second is None else (second, values[len(first) :])
        return make_valued_source(name, first, values[: len(first)], other, skipped=gathered.skipped)
    names = getattr(learn[0].features[label], "names", None)
    return make_source(name, *gathered.tables(known, count), names, skipped=gathered.skipped)


def _open(library: Any, name: str) -> Any:
    folder = Path(name).expanduser()
    try:
        if any((folder / file).is_file() for file in _SAVED):
            return library.load_from_disk(str(folder))
        base, _, configuration = name.partition(":")
        return library.load_dataset(base, configuration or None)
    except (OSError, ValueError) as error:  # the library's own errors, of missing sets and of the network, are of these
        raise MissingDataError(
            f"expected a data set of the hub, or a folder of save_to_disk, at '{name}', got: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _parts(found: Any, name: str) -> dict[str, Any]:
    parts = dict(found) if isinstance(found, dict) else {"train": found}
    if "train" not in parts:
        raise MissingDataError(f"expected a split 'train' in '{name}', got {', '.join(parts)}: save one of that name")
    return parts


def _columns(library: Any, table: Any) -> tuple[str, str | None]:
    """The columns of pictures and of labels, None where there is none."""
    features = table.features
    images = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    if len(images) != 1:
        raise SpecError(
            f"expected one column of pictures, got {', '.join(images) or 'none'} among {', '.join(features)}: keep one"
        )
    classes = [name for name, kind in features.items() if isinstance(kind, library.ClassLabel)]
    plain = [name for name in _LABELS if name in features]
    chosen = [name for name in plain if name in classes] or (classes if len(classes) == 1 else plain)
    if len(classes) > 1 and not chosen:
        raise SpecError(f"expected one column of labels, got {', '.join(classes)}: rename the one you mean to 'label'")
    return images[0], chosen[0] if chosen else None


def _column(table: Any, name: str) -> Tensor:
    values = torch.as_tensor(table.with_format("numpy")[name][:])
    if values.is_floating_point():
        return values.to(torch.float32).reshape(len(values), -1)
    if values.ndim != 1:
        raise InputError(f"expected one label per picture in the column '{name}', got shape {tuple(values.shape[1:])}")
    return values.to(torch.int64)


def _pictures(library: Any, tables: list[Any], image: str) -> Iterator[Picture]:
    """The bytes as they were stored: they are decoded here, within our limits."""
    for table in tables:
        raw = table.select_columns([image]).cast_column(image, library.Image(decode=False))
        start = 0
        for rows in raw.iter(batch_size=_ROWS):
            for offset, cell in enumerate(rows[image]):
                name = f"row {start + offset} of column '{image}' ({(cell or {}).get('path')!r})"
                yield name, partial(_content, (cell or {}).get("bytes"), name)
            start += len(rows[image])


def _content(content: bytes | None, name: str) -> BinaryIO:
    if content is None:  # a path from elsewhere must not make us read other files of this machine
        raise InputError(f"expected the bytes of a picture in {name}, got none: save it with embedded pictures")
    return BytesIO(content)
