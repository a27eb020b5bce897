"""The live page: its built files, and the device's side of the bundle that it runs in the browser."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from splitveil.cloud.exchange import exchange_of
from splitveil.cloud.service import Service
from splitveil.errors import InputError, MissingDataError
from splitveil.export.page_seals import LIVE, MOST_BYTES, PAGE, is_page_of
from splitveil_edge.passport import EDGE, PASSPORT, Passport
from splitveil_edge.reading import parse_json

__all__ = ["HOME", "Pages", "add_pages"]

HOME = "/ui/"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
    ".txt": "text/plain; charset=utf-8",
}
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self)",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_FRESH, _FOREVER = "no-cache", "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Held:
    body: bytes
    kind: str
    packed: bool
    cache: str


class Pages:
    """All that the page may ask for, held in memory: no name from outside ever becomes a path.

    Args:
        bundle: folder with ``edge.onnx`` and ``live/``.
        passport: of the bundle.

    Raises:
        MissingDataError: the page was not built, or the bundle has no ``live/``.
        TrustError: ``edge.onnx`` is not what the passport says.
        InputError: ``live/`` is another bundle's, or was changed.
    """

    def __init__(self, bundle: Path, passport: Passport) -> None:
        self._held = {**_built(), **_device(bundle, passport)}

    async def get(self, request: Request) -> Response:
        """One file."""
        exchange_of(request.scope).route = "page"
        found = self._held.get(request.path_params["name"] or "index.html")
        if found is None:
            raise HTTPException(404)
        headers = {**_HEADERS, "Cache-Control": found.cache}
        if found.packed:
            headers["Content-Encoding"] = "gzip"
        return Response(found.body, media_type=found.kind, headers=headers)


def add_pages(app: FastAPI, service: Service) -> None:
    """Serve the live page at `HOME`; the root leads there."""
    pages = Pages(service.served.folder, service.passport)

    async def home(request: Request) -> Response:
        exchange_of(request.scope).route = "page"
        return RedirectResponse(HOME)

    app.router.routes.append(Route(f"{HOME}{{name:path}}", pages.get, methods=["GET"]))
    app.router.routes.append(Route("/", home, methods=["GET"]))


def _built() -> dict[str, _Held]:
    root = files("splitveil.cloud").joinpath("ui")
    found = dict(_walk(root, "")) if root.is_dir() else {}
    if "index.html" not in found:
        raise MissingDataError(
            "expected the built live page in splitveil/cloud/ui, got none: install a wheel of splitveil, or run  "
            "npm ci && npm run build  in web/"
        )
    return found


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, _Held]]:
    found: list[tuple[str, _Held]] = []
    for item in folder.iterdir():
        name = f"{prefix}{item.name}"
        if item.is_dir():
            found += _walk(item, f"{name}/")
            continue
        plain = name.removesuffix(".gz")
        suffix = Path(plain).suffix
        if suffix in _TYPES:
            cache = _FOREVER if prefix else _FRESH  # what lies deeper has its digest in its name
            found.append((plain, _Held(item.read_bytes(), _TYPES[suffix], plain != name, cache)))
    return found


def _device(bundle: Path, passport: Passport) -> dict[str, _Held]:
    folder = bundle / LIVE
    if not (folder / PAGE).is_file():
        raise MissingDataError(
            f"expected '{folder / PAGE}' for the live page, got none: run  splitveil bundle live {bundle} --run RUN"
        )
    passport.check_files(bundle, [EDGE])
    body = (folder / PAGE).read_bytes()
    page = parse_json(body, PAGE, MOST_BYTES)
    if not is_page_of(page, passport):
        raise InputError(
            f"expected the live page of this bundle in '{folder}', got another's: remove it and run  "
            f"splitveil bundle live {bundle} --run RUN"
        )
    held = {f"bundle/{name}": _sealed(folder / name, seal) for name, seal in _seals(page, folder).items()}
    held[f"bundle/{PAGE}"] = _Held(body, _TYPES[".json"], False, _FRESH)
    held[f"bundle/{PASSPORT}"] = _Held(passport.body, _TYPES[".json"], False, _FRESH)
    held[f"bundle/{EDGE}"] = _Held((bundle / EDGE).read_bytes(), _TYPES[".onnx"], False, _FRESH)
    return held


def _seals(page: dict[str, Any], folder: Path) -> dict[str, Any]:
    seals = page.get("files")
    if not isinstance(seals, dict) or not all(Path(name).name == name and name.endswith(".onnx") for name in seals):
        raise InputError(f"expected names of graphs as 'files' in '{folder / PAGE}', got others: write it again")
    return seals


def _sealed(file: Path, seal: Any) -> _Held:
    try:
        body = file.read_bytes()
    except OSError as error:
        raise MissingDataError(f"expected '{file}', got {error.strerror}: write the live page again") from error
    told = seal.get("sha256") if isinstance(seal, dict) else None
    if hashlib.sha256(body).hexdigest() != told:
        raise InputError(f"expected '{file}' as page.json seals it, got another file: write the live page again")
    return _Held(body, _TYPES[".onnx"], False, _FRESH)
