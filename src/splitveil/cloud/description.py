"""The server in the words of OpenAPI."""

from __future__ import annotations

from typing import Any

from splitveil.cloud.protocol import HEADER_LENGTH
from splitveil.cloud.service import INPUT, OUTPUT, VERSION, Service

__all__ = ["infer_operation", "operation", "path_parameters"]

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}
_REASONS = {
    400: "The request is not what the model takes; the reason says why.",
    401: "No token of this server.",
    404: "No such model or version.",
    405: "Another method is expected at this path.",
    408: "The body came too slowly.",
    413: "The body is too large, as it came or once inflated.",
    415: "An encoding that is not known.",
    429: "Too many requests; Retry-After says when to come again.",
    500: "An error within the server.",
    503: "The server drains, has no time, or its passport has expired.",
}


def operation(summary: str, content: dict[str, Any], problems: tuple[int, ...]) -> dict[str, Any]:
    """One operation: what it answers, and the problems that it may have."""
    errors = {
        str(status): {"description": _REASONS[status], "content": {"application/json": {"schema": _ERROR}}}
        for status in sorted({*problems, 401, 405, 429})
    }
    return {"summary": summary, "responses": {"200": {"description": "The answer.", "content": content}, **errors}}


def path_parameters(service: Service, path: str) -> list[dict[str, Any]]:
    """Of a path with ``{model}`` and perhaps ``{version}``: there is one of each."""
    values = {"model": service.passport.name, "version": VERSION}
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": [value]}}
        for name, value in values.items()
        if f"{{{name}}}" in path
    ]


def infer_operation(service: Service) -> dict[str, Any]:
    """The operation of inference, with JSON and with binary tensors."""
    json_body = {"schema": _request(service), "example": _example(service)}
    header = {
        "name": HEADER_LENGTH,
        "in": "header",
        "required": False,
        "description": "Length of the JSON before binary tensors, bytes; absent where all of the body is JSON.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
    }
    described = operation(
        "Replies of the model to releases, one per row.",
        {
            "application/json": {"schema": _answer(service)},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
        (400, 404, 408, 413, 415, 500, 503),
    )
    described["parameters"] = [header]
    described["requestBody"] = {
        "required": True,
        "content": {
            "application/json": json_body,
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
    return described


def _request(service: Service) -> dict[str, Any]:
    spec = service.input
    declared = service.passport.release_range
    number: dict[str, Any] = {"type": "number"} if spec.datatype == "FP32" else {"type": "integer"}
    if spec.datatype != "FP32":
        number |= {"minimum": 0, "maximum": 255}
    elif declared is not None:
        number |= {"minimum": declared[0], "maximum": declared[1]}
    tensor = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": [INPUT]},
            "datatype": {"type": "string", "enum": [spec.datatype]},
            "shape": _shape(service, spec.shape),
            "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
            "data": {"type": "array", "items": number, "description": "Row-major; nested lists are taken too."},
        },
        "required": ["name", "shape", "datatype"],
    }
    output = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": [OUTPUT]},
            "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
        },
        "required": ["name"],
    }
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "maxLength": 1024},
            "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
            "outputs": {"type": "array", "items": output, "maxItems": 1},
        },
        "required": ["inputs"],
    }


def _answer(service: Service) -> dict[str, Any]:
    output = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": [OUTPUT]},
            "datatype": {"type": "string", "enum": ["FP32"]},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array", "items": {"type": "number"}},
        },
        "required": ["name", "datatype", "shape"],
    }
    return {
        "type": "object",
        "properties": {
            "model_name": {"type": "string", "enum": [service.passport.name]},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object", "properties": {"passport": {"type": "string"}}},
            "outputs": {"type": "array", "items": output},
        },
        "required": ["model_name", "outputs"],
    }


def _shape(service: Service, row: tuple[int, ...]) -> dict[str, Any]:
    rows = f"[n, {', '.join(map(str, row))}], n up to {service.settings.limits.max_rows}"
    axes = {"type": "integer", "minimum": 0}
    return {"type": "array", "items": axes, "minItems": len(row) + 1, "maxItems": len(row) + 1, "description": rows}


def _example(service: Service) -> dict[str, Any]:
    spec = service.input
    count = 1
    for size in spec.shape:
        count *= size
    return {"inputs": [{**spec.to_json(), "shape": [1, *spec.shape], "data": [0] * count}]}
