"""Requests with boundary values, made from the descriptors: the same seed gives the same requests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.api import field_behavior_pb2
from google.protobuf import duration_pb2, field_mask_pb2, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from support.contracts import Path, behaviors, input_paths, path_of, reference_of
from support.serving import bearer

DEEP_JSON = '{"a":' * 20_000
MANY_DIGITS = "9" * 5_000
LONG = "x" * 8_000
CALL_LIMIT_S = 20.0
WATCH_LIMIT_S = 0.1
"""A Watch of a job that goes on does not end by itself."""


def _token(content: str) -> str:
    return base64.urlsafe_b64encode(content.encode()).decode()


STRINGS = (
    "",
    " ",
    "\n",
    "\0",
    "a\0b",
    LONG,
    "é" * 4_000,
    "\U0001f600" * 2_000,
    "[" * 50_000,
    DEEP_JSON,
    MANY_DIGITS,
    "-1",
    "NaN",
    "1e999",
    "null",
    "[]",
    '"\\ud800"',
    '{"type": 3}',
    '{"$ref": "#"}',
    "(",
    "(a+)+$",
    "..",
    "%00",
    "tenants/acme",
    "tenants/acme/datasets/",
    "baseModels/" + LONG,
    "tenants/acme/datasets/sums/revisions/r" + "9" * 40,
    "tenants/acme/datasets/docs/revisions/r99999999999999999999",
    "tenants/acme/adapters/support/revisions/r99999999999999999999",
    "tenants/acme/adapters/docs/revisions/r9999999999",
    "tenants/acme/adapters/" + LONG + "/revisions/r1",
    _token('{"after": "x", "binding": ""}'),
    _token(DEEP_JSON),
    _token("\0" * 32),
)
BYTES = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\n" * 1000,
    b"[" * 50_000,
    DEEP_JSON.encode(),
    b'{"prompt": "\\ud800", "completion": "x"}',
    b'{"prompt": "\\u0000", "completion": "x"}',
    b'{"prompt": 1e999, "completion": NaN}',
    b'{"prompt": ' + MANY_DIGITS.encode() + b', "completion": "x"}',
    b'{"messages": [{"role": "user", "content": {"a": []}}]}',
    b'{"prompt": "a", "completion": "b", "weight": -1}',
    b"PAR1",
)
INT32 = (0, 1, -1, 2**31 - 1, -(2**31))
INT64 = (*INT32, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
UINT = (0, 1, 2**31, 2**32 - 1)
DOUBLES = (0.0, -0.0, 1.0, -1.0, 0.5, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
SECONDS = ((0, 0), (1, 0), (-1, 0), (0, -1), (1, -1), (2**63 - 1, 0), (-(2**63), 0), (0, 2**31 - 1), (10**12, 0))
SECONDS_AT_THE_ENDS = ((253_402_300_799, 999_999_999), (-62_135_596_800, 0), (315_576_000_000, 0))


def _structs() -> Iterator[struct_pb2.Struct]:
    yield struct_pb2.Struct()
    for value in (0, -1, 0.5, 1e300, float("nan"), float("inf"), "", "\0", LONG, True, None, [], {}, [[]], {"": {}}):
        made = struct_pb2.Struct()
        for name in ("seed", "min_completion_characters", "validation", "threshold", "smoothing"):
            made[name] = value
        yield made
    unset = struct_pb2.Struct()
    unset.fields["seed"].SetInParent()
    yield unset
    deep: dict[str, Any] = {}
    for _ in range(20):
        deep = {"a": deep}
    nested, odd = struct_pb2.Struct(), struct_pb2.Struct()
    nested.update(deep)
    odd.update({LONG: 1, "\0": 1, "": 1})
    yield from (nested, odd)


WELL_KNOWN: Mapping[str, tuple[Message, ...]] = {
    "google.protobuf.Timestamp": tuple(
        timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos) for seconds, nanos in SECONDS + SECONDS_AT_THE_ENDS
    ),
    "google.protobuf.Duration": tuple(
        duration_pb2.Duration(seconds=seconds, nanos=nanos) for seconds, nanos in SECONDS + SECONDS_AT_THE_ENDS
    ),
    "google.protobuf.Struct": tuple(_structs()),
    "google.protobuf.FieldMask": tuple(
        field_mask_pb2.FieldMask(paths=paths) for paths in ([], ["*"], ["\0"], [LONG], ["limits.weight"] * 1000, [""])
    ),
}
SCALARS: Mapping[int, tuple[Any, ...]] = {
    FieldDescriptor.CPPTYPE_STRING: STRINGS,
    FieldDescriptor.CPPTYPE_INT32: INT32,
    FieldDescriptor.CPPTYPE_INT64: INT64,
    FieldDescriptor.CPPTYPE_UINT32: UINT,
    FieldDescriptor.CPPTYPE_UINT64: UINT,
    FieldDescriptor.CPPTYPE_DOUBLE: DOUBLES,
    FieldDescriptor.CPPTYPE_FLOAT: DOUBLES,
    FieldDescriptor.CPPTYPE_BOOL: (True, False),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 999, -1),
}


def values_of(one: FieldDescriptor) -> list[Any]:
    """Boundary values of a field: of a repeated one and of a map lists of items and pairs."""
    kind = one.message_type
    if kind is not None and kind.GetOptions().map_entry:
        items = values_of(kind.fields_by_name["value"])
        return [[(key, item)] for key in ("a", "", "\0", LONG) for item in items]
    if kind is not None:
        found: list[Any] = list(WELL_KNOWN.get(kind.full_name, ())) or [message_factory.GetMessageClass(kind)()]
    else:
        found = list(BYTES if one.type == FieldDescriptor.TYPE_BYTES else SCALARS[one.cpp_type])
    return [*([item] for item in found), found[-1:] * 3000] if one.is_repeated else found


def put(message: Any, path: Path, value: Any) -> None:
    """Sets the field at the end of `path`; the messages on the way are made where they are missing."""
    *outer, last = path
    for step in outer:
        message = getattr(message, step.name)
        if step.is_repeated:
            message = message[0] if message else message.add()
    if last.message_type is not None and last.message_type.GetOptions().map_entry:
        for key, item in value:
            if isinstance(item, Message):
                getattr(message, last.name)[key].CopyFrom(item)
            else:
                getattr(message, last.name)[key] = item
    elif last.is_repeated:
        del getattr(message, last.name)[:]
        getattr(message, last.name).extend(value)
    elif last.message_type is not None:
        getattr(message, last.name).CopyFrom(value)
    else:
        setattr(message, last.name, value)


@dataclass(frozen=True)
class World:
    """A served service with something in it."""

    channel: grpc.aio.Channel
    names: Mapping[str, str]
    """Names of what exists, by type of resource."""
    samples: Mapping[str, Message] = field(default_factory=dict)
    """Requests that are right, by method, where one with names and required fields alone is not."""

    def request(self, method: MethodDescriptor) -> Any:
        """A request that names what exists."""
        if method.name in self.samples:
            made = message_factory.GetMessageClass(method.input_type)()
            made.CopyFrom(self.samples[method.name])
        else:
            made = self._filled(method.input_type)
        for path in input_paths(method.input_type):
            if path[-1].name == "request_id":
                put(made, path, str(uuid.uuid4()))
        return made

    def _filled(self, descriptor: Descriptor) -> Any:
        made = message_factory.GetMessageClass(descriptor)()
        for one in descriptor.fields:
            is_required = field_behavior_pb2.REQUIRED in behaviors(one)
            is_choice = one.containing_oneof is not None and made.WhichOneof(one.containing_oneof.name) is None
            if not is_required and not is_choice:
                continue
            if reference := reference_of(one):
                name = self.names.get(reference, "tenants/acme" if reference.endswith("/") else "")
                if name:
                    put(made, (one,), [name] if one.is_repeated else name)
            elif one.message_type is not None and not one.message_type.GetOptions().map_entry:
                if is_required:
                    inner = self._filled(one.message_type)
                    put(made, (one,), [inner] if one.is_repeated else inner)
            elif is_required and one.cpp_type in SCALARS and one.type != FieldDescriptor.TYPE_BYTES:
                value = "fuzz" if one.cpp_type == FieldDescriptor.CPPTYPE_STRING else 1
                put(made, (one,), [value] if one.is_repeated else value)
        return made


async def fuzz(
    world: World, methods: list[MethodDescriptor], *, rng: random.Random, values_per_field: int
) -> list[str]:
    """What was answered wrongly: each method is called with up to so many boundary values of every field."""
    wrong = []
    destructive = ("Delete", "Cancel", "StartEngine", "Rollback")
    for method in sorted(methods, key=lambda one: one.name.startswith(destructive)):
        for data in (b"\xff" * 9, b"\x0a\xff", b"\x12" * 400):
            if fault := await _fault(world.channel, method, [data]):
                wrong.append(f"{method.name} {data[:9]!r}: {fault}")
        for path in input_paths(method.input_type):
            values = values_of(path[-1])
            for value in rng.sample(values, min(values_per_field, len(values))):
                request = world.request(method)
                put(request, path, value)
                requests = [request, request] if method.client_streaming else [request]
                if method.client_streaming and path[0].name == "data":
                    requests[0] = world.request(method)
                if fault := await _fault(world.channel, method, [one.SerializeToString() for one in requests]):
                    where = ".".join(step.name for step in path)
                    wrong.append(f"{method.name} {where}={str(value)[:60]!r}: {fault}")
    return wrong


async def _fault(channel: grpc.aio.Channel, method: MethodDescriptor, messages: list[bytes]) -> str:
    """What is wrong with the answer; empty if nothing is."""
    is_watch = method.name.startswith("Watch")
    limit_s = WATCH_LIMIT_S if is_watch else CALL_LIMIT_S
    try:
        async with contextlib.aclosing(answers(channel, method, messages, limit_s=limit_s)) as found:
            async for _ in found:
                pass
    except grpc.aio.AioRpcError as error:
        return _fault_of(error, is_watch=is_watch)
    return ""


def _fault_of(error: grpc.aio.AioRpcError, *, is_watch: bool) -> str:
    code, said = error.code(), f"{error.code().name} {(error.details() or '')[:200]}"
    if is_watch and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if packed is None:
        return f"{said} (not an error of ours)"
    if code.name in ("INTERNAL", "UNKNOWN", "DATA_LOSS", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"):
        return said
    details, request = status_pb2.Status.FromString(packed).details, error_details_pb2.BadRequest()
    named = [violation.field for one in details if one.Unpack(request) for violation in request.field_violations]
    return f"{said} (no field is named)" if code is grpc.StatusCode.INVALID_ARGUMENT and not all(named or [""]) else ""


async def answers(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    messages: list[bytes],
    *,
    metadata: tuple[tuple[str, str], ...] | None = None,
    limit_s: float = CALL_LIMIT_S,
) -> AsyncIterator[bytes]:
    """The answers to a call, as bytes. AioRpcError."""
    make = getattr(
        channel,
        f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}",
    )
    argument: Any = _each(messages) if method.client_streaming else messages[0]
    call = make(path_of(method))(argument, metadata=bearer() if metadata is None else metadata, timeout=limit_s)
    try:
        if not method.server_streaming:
            yield await call
            return
        async for answer in call:
            yield answer
    finally:
        call.cancel()


async def _each(messages: list[bytes]) -> AsyncIterator[bytes]:
    for data in messages:
        yield data
        await asyncio.sleep(0)
