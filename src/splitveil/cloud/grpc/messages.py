"""The messages of ``inference.GRPCInferenceService``, as classes.

They are built from the table below, in a pool of their own: code that a protobuf compiler wrote works with some
versions of protobuf only, and two packages that bring the same messages cannot share a pool.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessages

__all__ = ["METHODS", "PACKAGE", "SERVICE", "message"]

PACKAGE, SERVICE = "inference", "GRPCInferenceService"
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")

_NAME_AND_VERSION = ("name string", "version string")
_TENSOR = (
    "name string",
    "datatype string",
    "shape int64*",
    "parameters map",
    "contents InferTensorContents",
)
# fields are numbered from 1 in their order; * is repeated, "map" a map from names to InferParameter
_MESSAGES: dict[str, tuple[str, ...]] = {
    "InferParameter": ("bool_param bool", "int64_param int64", "string_param string"),
    "InferTensorContents": (
        "bool_contents bool*",
        "int_contents int32*",
        "int64_contents int64*",
        "uint_contents uint32*",
        "uint64_contents uint64*",
        "fp32_contents float*",
        "fp64_contents double*",
        "bytes_contents bytes*",
    ),
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("live bool",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("ready bool",),
    "ModelReadyRequest": _NAME_AND_VERSION,
    "ModelReadyResponse": ("ready bool",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (*_NAME_AND_VERSION, "extensions string*"),
    "ModelMetadataRequest": _NAME_AND_VERSION,
    "ModelMetadataResponse.TensorMetadata": ("name string", "datatype string", "shape int64*"),
    "ModelMetadataResponse": (
        "name string",
        "versions string*",
        "platform string",
        "inputs ModelMetadataResponse.TensorMetadata*",
        "outputs ModelMetadataResponse.TensorMetadata*",
    ),
    "ModelInferRequest.InferInputTensor": _TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": ("name string", "parameters map"),
    "ModelInferRequest": (
        "model_name string",
        "model_version string",
        "id string",
        "parameters map",
        "inputs ModelInferRequest.InferInputTensor*",
        "outputs ModelInferRequest.InferRequestedOutputTensor*",
        "raw_input_contents bytes*",
    ),
    "ModelInferResponse.InferOutputTensor": _TENSOR,
    "ModelInferResponse": (
        "model_name string",
        "model_version string",
        "id string",
        "parameters map",
        "outputs ModelInferResponse.InferOutputTensor*",
        "raw_output_contents bytes*",
    ),
}
_ONE_OF = {"InferParameter": "parameter_choice"}
_PARAMETER = "InferParameter"


def message(name: str) -> Any:
    """The class of a message.

    Example:
        >>> message("ServerLiveResponse")(live=True).live
        True
    """
    return _classes()[f"{PACKAGE}.{name}"]


@cache
def _classes() -> dict[str, Any]:
    file = FileDescriptorProto(name="splitveil/open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, DescriptorProto] = {}
    for name in sorted(_MESSAGES, key=lambda key: key.count(".")):  # what holds others comes before them
        outer, _, own = name.rpartition(".")
        holder = made[outer].nested_type if outer else file.message_type
        made[name] = holder.add(name=own)
        _add_fields(made[name], name, _MESSAGES[name])
    return dict(GetMessages([file], pool=DescriptorPool()))


def _add_fields(to: DescriptorProto, name: str, fields: tuple[str, ...]) -> None:
    if name in _ONE_OF:
        to.oneof_decl.add(name=_ONE_OF[name])
    for number, written in enumerate(fields, 1):
        field, kind = written.split()
        added = to.field.add(name=field, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        if name in _ONE_OF:
            added.oneof_index = 0
        if kind == "map":
            _add_map(to, added, name)
            continue
        if kind.endswith("*"):
            added.label = FieldDescriptorProto.LABEL_REPEATED
        _set_kind(added, kind.removesuffix("*"))


def _add_map(to: DescriptorProto, field: FieldDescriptorProto, name: str) -> None:
    entry = to.nested_type.add(name="ParametersEntry")
    entry.options.map_entry = True
    for number, (part, kind) in enumerate((("key", "string"), ("value", _PARAMETER)), 1):
        added = entry.field.add(name=part, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        _set_kind(added, kind)
    field.label = FieldDescriptorProto.LABEL_REPEATED
    _set_kind(field, f"{name}.ParametersEntry")


def _set_kind(field: FieldDescriptorProto, kind: str) -> None:
    scalar = getattr(FieldDescriptorProto, f"TYPE_{kind.upper()}", None)
    if scalar is not None:
        field.type = scalar
        return
    field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
