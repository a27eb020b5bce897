"""Between messages of gRPC and the requests that the service reads; pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from splitveil.cloud.datatypes import TensorSpec, datatype_of
from splitveil.cloud.grpc.messages import message
from splitveil.cloud.problems import HttpError
from splitveil.cloud.protocol import Blobs, InferRequest, read_request

__all__ = ["infer_request", "infer_response", "model_metadata"]

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def infer_request(sent: Any, spec: TensorSpec, outputs: list[str], most_rows: int) -> InferRequest:
    """What a ``ModelInferRequest`` asks; its checks are those of REST.

    Args:
        sent: the message.
        spec: the input of the model.
        outputs: the names that the model has.
        most_rows: that one request may hold.

    Raises:
        HttpError: status 400, with the reason.

    Example:
        >>> sent = message("ModelInferRequest")()
        >>> tensor = sent.inputs.add(name="r", datatype="FP32", shape=[1, 2])
        >>> tensor.contents.fp32_contents.extend([0.5, 1])
        >>> infer_request(sent, TensorSpec("r", "FP32", (2,)), ["reply"], 8).inputs["r"].tolist()
        [[0.5, 1.0]]
    """
    raw = list(sent.raw_input_contents)
    if raw and len(raw) != len(sent.inputs):
        raise HttpError(
            400, f"expected raw_input_contents for each of {len(sent.inputs)} inputs, or for none, got {len(raw)}"
        )
    top: dict[str, Any] = {
        "parameters": _parameters(sent.parameters),
        "inputs": [_input(tensor, raw[number] if raw else None) for number, tensor in enumerate(sent.inputs)],
        "outputs": [{"name": item.name, "parameters": _parameters(item.parameters)} for item in sent.outputs],
    }
    if sent.id:
        top["id"] = sent.id
    return read_request(top, Blobs(b"".join(raw), 0), [spec], outputs, most_rows)


def infer_response(model: str, version: str, id: str | None, arrays: Mapping[str, NDArray[Any]], passport: str) -> Any:
    """A ``ModelInferResponse`` with raw contents.

    Args:
        model: its name.
        version: of it.
        id: of the request.
        arrays: outputs by name.
        passport: what names that of the bundle.
    """
    said = message("ModelInferResponse")(model_name=model, model_version=version, id=id or "")
    said.parameters["passport"].string_param = passport
    for name, array in arrays.items():
        said.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        said.raw_output_contents.append(array.tobytes())
    return said


def model_metadata(facts: Mapping[str, Any]) -> Any:
    """A ``ModelMetadataResponse`` from what REST says of the model; it has no place for the passport."""
    said = message("ModelMetadataResponse")(name=facts["name"], versions=facts["versions"], platform=facts["platform"])
    for kind in ("inputs", "outputs"):
        for tensor in facts[kind]:
            getattr(said, kind).add(**tensor)
    return said


def _input(tensor: Any, raw: bytes | None) -> dict[str, Any]:
    item = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    parameters = _parameters(tensor.parameters)
    if raw is not None:
        if tensor.HasField("contents"):
            raise HttpError(400, f"expected contents or raw_input_contents for '{tensor.name}', got both")
        return {**item, "parameters": {**parameters, "binary_data_size": len(raw)}}
    if "binary_data_size" in parameters:
        raise HttpError(400, "expected binary data in raw_input_contents, got the parameter 'binary_data_size'")
    field = _CONTENTS.get(tensor.datatype)
    data = list(getattr(tensor.contents, field)) if field else []
    return {**item, "parameters": parameters, "data": data}


def _parameters(given: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(value, choice)
    return found
