"""The live page's folder within a bundle, and whether it is what its page.json says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitveil.errors import CheckFailedError
from splitveil_edge.passport import Passport
from splitveil_edge.reading import parse_json

__all__ = ["LIVE", "MOST_BYTES", "PAGE", "check_page", "is_page_of", "seal"]

LIVE, PAGE = "live", "page.json"
"""The folder within a bundle, and the file in it that says what the page shows."""

MOST_BYTES = 4_000_000
"""Of page.json; a longer one is not read."""


def seal(file: Path) -> dict[str, Any]:
    """Digest and size of a file."""
    body = file.read_bytes()
    return {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}


def is_page_of(page: Mapping[str, Any], passport: Passport) -> bool:
    """Whether page.json is of a format that is known, and of the bundle with this passport."""
    return page.get("format") == 1 and page.get("passport") == passport.digest


def check_page(bundle: Path, passport: Passport) -> str:
    """Hold ``live/`` against its page.json and the passport, as a server does before it shows the page.

    Returns:
        What was found, in words.

    Raises:
        PassportError: page.json is no object of JSON.
        CheckFailedError: it names another bundle, or a file is missing, changed or one too many.
    """
    folder = bundle / LIVE
    cure = f"remove '{folder}', or write it again with  splitveil bundle live {bundle} --run RUN"
    try:
        page = parse_json((folder / PAGE).read_bytes(), PAGE, MOST_BYTES)
        found = {item.name: seal(item) for item in folder.iterdir() if item.name != PAGE}
    except OSError as error:
        raise CheckFailedError(f"expected {PAGE} and graphs in '{folder}', got {error.strerror}: {cure}") from error
    if not is_page_of(page, passport):
        raise CheckFailedError(f"expected the live page of this bundle in '{folder}', got another's: {cure}")
    told = page.get("files")
    seals = told if isinstance(told, dict) else {}
    wrong = sorted(name for name in {*seals, *found} if seals.get(name) != found.get(name))
    if wrong:
        raise CheckFailedError(
            f"expected the files of '{folder}' as {PAGE} seals them, got {', '.join(wrong[:3])} changed, missing or "
            f"not sealed: {cure}"
        )
    return f"{len(found)} graphs as {PAGE} seals them, for this passport"
