"""The application: the routes of the protocol over one bundle, as FastAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from splitveil import __version__
from splitveil.cloud.description import infer_operation, operation, path_parameters
from splitveil.cloud.door import Door
from splitveil.cloud.endpoints import Endpoints, Infer
from splitveil.cloud.pages import add_pages
from splitveil.cloud.service import Service
from splitveil.cloud.settings import ServeSettings
from splitveil.cloud.tails import open_bundle

__all__ = ["create_app", "service_of"]

_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
_JSON = {"application/json": {"schema": {"type": "object"}}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}


def create_app(bundle: str | Path, settings: ServeSettings | None = None) -> FastAPI:
    """An ASGI application that serves a bundle over the Open Inference Protocol v2.

    Args:
        bundle: folder with cloud.onnx and passport.json; nothing else of it is read.
        settings: the defaults measure what suits this machine, which takes some seconds.

    Returns:
        The application. `service_of` gives its service, which drains it.

    Raises:
        EdgeError: the bundle is none, was changed, has expired, or is not signed by the key of the settings.
        SplitveilError: it cannot be served.
    """
    settings = settings or ServeSettings()
    service = Service(open_bundle(Path(bundle), settings.public_key), settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="splitveil",
        version=__version__,
        description="The cloud's half of a split: replies to releases, over the Open Inference Protocol v2.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )
    app.state.service = service
    _add_routes(app, service)
    if settings.ui:
        add_pages(app, service)
    app.add_middleware(Door, service=service)
    app.openapi = _describer(app, service)  # type: ignore[method-assign]
    return app


def service_of(app: FastAPI) -> Service:
    """What an application of `create_app` serves."""
    service: Service = app.state.service
    return service


def _add_routes(app: FastAPI, service: Service) -> None:
    endpoints = Endpoints(service)
    plain: list[tuple[str, Callable[[Request], Any], dict[str, Any], tuple[int, ...]]] = [
        ("/v2", endpoints.server, _JSON, ()),
        ("/v2/health/live", endpoints.live, _JSON, ()),
        ("/v2/health/ready", endpoints.ready, _JSON, (503,)),
        *((path, endpoints.model, _JSON, (404,)) for path in _MODEL),
        *((f"{path}/ready", endpoints.model_ready, _JSON, (404, 503)) for path in _MODEL),
        ("/metrics", endpoints.metrics, _TEXT, ()),
    ]
    for path, endpoint, content, problems in plain:
        described = operation((endpoint.__doc__ or "").strip(), content, problems)
        described["parameters"] = path_parameters(service, path)
        app.add_api_route(path, endpoint, methods=["GET"], openapi_extra=described, response_model=None)
    infer = Infer(service)
    for path in _MODEL:
        app.router.routes.append(Route(f"{path}/infer", infer, methods=["POST"]))


def _describer(app: FastAPI, service: Service) -> Callable[[], dict[str, Any]]:
    written = app.openapi

    def describe() -> dict[str, Any]:
        found = written()
        for path in _MODEL:
            post = infer_operation(service)
            post["parameters"] = [*path_parameters(service, f"{path}/infer"), *post["parameters"]]
            found["paths"][f"{path}/infer"] = {"post": post}
        return found

    return describe


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "expected a path of the Open Inference Protocol v2, such as /v2, got another"}
    said[405] = "expected another method at this path: the header Allow names those that it takes"
    reason = said.get(error.status_code, str(error.detail))
    return JSONResponse({"error": reason}, error.status_code, headers=dict(error.headers or {}))
