"""Every method of the four services, and of the one that each of them has, read from the generated descriptors."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from google.api import field_behavior_pb2, resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from luthier.options.v1 import call_policy_pb2
from luthier.services import SERVICES


def services() -> Iterator[ServiceDescriptor]:
    for name in (*SERVICES, "storage"):
        package = importlib.import_module(f"luthier.{name}.v1")
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.endswith("_service_pb2"):
                loaded = importlib.import_module(f"{package.__name__}.{module.name}")
                yield from loaded.DESCRIPTOR.services_by_name.values()


METHODS: list[MethodDescriptor] = [method for service in services() for method in service.methods]


def methods_of(service: str) -> list[MethodDescriptor]:
    """Those that a server of `service` has in the tests: over fakes, inference stores nothing that could be swept."""
    packages = [f"luthier.{service}.v1", *(["luthier.storage.v1"] if service != "inference" else [])]
    return [method for method in METHODS if method.containing_service.file.package in packages]


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def scope_of(method: MethodDescriptor) -> str:
    scope: str = method.GetOptions().Extensions[call_policy_pb2.call].scope
    return scope


def is_ours(message: Descriptor | None) -> bool:
    return message is not None and message.file.package.startswith("luthier.")


def behaviors(field: FieldDescriptor) -> list[int]:
    found: list[int] = list(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])
    return found


def reference_of(field: FieldDescriptor) -> str:
    """The type of the resource that a field names, with a slash at its end if it names the parent; else empty."""
    if not field.GetOptions().HasExtension(resource_pb2.resource_reference):
        return ""
    found = field.GetOptions().Extensions[resource_pb2.resource_reference]
    return str(found.type or f"{found.child_type}/")


Path = tuple[FieldDescriptor, ...]


def input_paths(message: Descriptor, *, behind: Path = ()) -> Iterator[Path]:
    """Every field of a message of ours at any depth that a caller may set, with the fields that lead to it."""
    for field in message.fields:
        if field_behavior_pb2.OUTPUT_ONLY in behaviors(field):
            continue
        path = (*behind, field)
        yield path
        child = field.message_type
        if is_ours(child) and not child.GetOptions().map_entry and all(child != one.message_type for one in behind):
            yield from input_paths(child, behind=path)
