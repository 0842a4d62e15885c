"""What every contract promises, read from the descriptors: pages, request ids, field behaviour, tenancy, scopes."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator

import luthier
import pytest
from google.api import field_behavior_pb2, field_info_pb2, resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from luthier.options.v1 import call_policy_pb2
from luthier.services import OPERATOR_SCOPES, SERVICES
from support.contracts import METHODS, behaviors, is_ours

SHARED_METHODS = {
    "ImportBaseModel": "base models belong to the installation",
    "GetBaseModel": "base models belong to the installation",
    "ListBaseModels": "base models belong to the installation",
    "StartEngine": "one engine serves every tenant",
    "GetEngine": "one engine serves every tenant",
    "ListQuotas": "the operator reads what every tenant may take",
    "DeleteBaseModel": "base models belong to the installation",
    "GetLiveBlobs": "the blob store holds what every tenant has",
    "GetStorage": "one disk holds what every tenant has",
    "SweepStorage": "one disk holds what every tenant has",
}
"""Methods whose request need not name a tenant, and why."""

COMPUTING_METHODS = ("CompareEvaluations", "GenerateChallengeCases", "PlanGate", "SelfTestGate")
"""They compute their answer from what is stored, and store nothing."""


REQUESTS: list[Descriptor] = [method.input_type for method in METHODS]

CHANGING = [m for m in METHODS if m.GetOptions().idempotency_level == MethodOptions.IDEMPOTENCY_UNKNOWN]
"""A second call would do it again, unless it carries the same `request_id`."""

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
every_changing_method = pytest.mark.parametrize("method", CHANGING, ids=lambda method: method.full_name)


def fields_below(
    message: Descriptor, *, path: str = "", seen: frozenset[str] = frozenset()
) -> Iterator[tuple[str, FieldDescriptor]]:
    """Every field of a message of ours at any depth, with its dotted path; nothing below output-only fields."""
    for field in message.fields:
        yield f"{path}{field.name}", field
        child = field.message_type
        is_input = field_behavior_pb2.OUTPUT_ONLY not in behaviors(field)
        if is_ours(child) and is_input and child.full_name not in seen and not child.GetOptions().map_entry:
            yield from fields_below(child, path=f"{path}{field.name}.", seen=seen | {child.full_name})


def policy_of(method: MethodDescriptor) -> call_policy_pb2.CallPolicy:
    return method.GetOptions().Extensions[call_policy_pb2.call]


def test_the_contracts_are_all_here() -> None:
    packages = {f"luthier.{name}.v1" for name in (*SERVICES, "storage")}
    assert {method.containing_service.file.package for method in METHODS} == packages
    assert len(METHODS) > 40


@every_method
def test_a_method_has_a_request_and_a_response_of_its_own(method: MethodDescriptor) -> None:
    assert (method.input_type.name, method.output_type.name) == (f"{method.name}Request", f"{method.name}Response")


@pytest.mark.parametrize("method", [m for m in METHODS if m.name.startswith("List")], ids=lambda m: m.full_name)
def test_a_list_is_paged(method: MethodDescriptor) -> None:
    request, response = method.input_type.fields_by_name, method.output_type.fields_by_name
    assert request["page_size"].type == FieldDescriptor.TYPE_INT32
    assert request["page_token"].type == FieldDescriptor.TYPE_STRING
    assert response["next_page_token"].type == FieldDescriptor.TYPE_STRING
    assert response[next(name for name, field in response.items() if field.number == 1)].is_repeated
    assert not method.server_streaming


@pytest.mark.parametrize("method", [m for m in METHODS if m.name.startswith("Watch")], ids=lambda m: m.full_name)
def test_a_watch_streams_numbered_events_from_any_point_on(method: MethodDescriptor) -> None:
    assert method.server_streaming
    assert method.input_type.fields_by_name["after_event_id"].type == FieldDescriptor.TYPE_INT64
    event = method.output_type.fields_by_name["event"].message_type
    assert event.fields_by_name["event_id"].type == FieldDescriptor.TYPE_INT64


@every_method
def test_only_reading_verbs_have_no_side_effects(method: MethodDescriptor) -> None:
    has_none = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    reads = method.name.startswith(("Get", "List", "Read", "Watch"))
    assert has_none == (reads or method.name in COMPUTING_METHODS)


@every_changing_method
def test_a_call_that_changes_something_has_a_request_id(method: MethodDescriptor) -> None:
    ids = [field for path, field in fields_below(method.input_type) if field.name == "request_id"]
    assert len(ids) == 1
    assert ids[0].GetOptions().Extensions[field_info_pb2.field_info].format == field_info_pb2.FieldInfo.UUID4
    assert behaviors(ids[0]) == [field_behavior_pb2.OPTIONAL]


@every_method
def test_every_field_of_a_request_says_whether_it_is_needed(method: MethodDescriptor) -> None:
    silent = [
        path
        for path, field in fields_below(method.input_type)
        if not behaviors(field) and field.containing_oneof is None
    ]
    assert silent == []


@every_method
def test_a_resource_says_how_it_is_named(method: MethodDescriptor) -> None:
    """The field `name` of a request is a reference, so that the interceptor holds it against the caller's tenant."""
    for name in ("name", "parent"):
        if field := method.input_type.fields_by_name.get(name):
            assert field.GetOptions().HasExtension(resource_pb2.resource_reference)


@every_method
def test_a_request_names_its_tenant_or_is_known_to_be_shared(method: MethodDescriptor) -> None:
    references = [
        field.GetOptions().Extensions[resource_pb2.resource_reference]
        for _, field in fields_below(method.input_type)
        if field.GetOptions().HasExtension(resource_pb2.resource_reference)
    ]
    of_a_tenant = [r for r in references if (r.type or r.child_type) != "trainer.luthier.dev/BaseModel"]
    assert bool(of_a_tenant) != (method.name in SHARED_METHODS)


def test_a_resource_of_a_tenant_has_a_name_below_it() -> None:
    patterns = [
        pattern
        for method in METHODS
        for _, field in fields_below(method.output_type)
        if is_ours(field.message_type)
        for pattern in field.message_type.GetOptions().Extensions[resource_pb2.resource].pattern
    ]
    assert len(set(patterns)) >= 8
    assert {pattern for pattern in patterns if not pattern.startswith("tenants/{tenant}/")} == {
        "baseModels/{base_model}"
    }


@pytest.mark.parametrize("name", SERVICES)
def test_every_method_of_a_service_needs_a_scope_that_tokens_carry(name: str) -> None:
    spec = SERVICES[name]
    methods = [method for method in METHODS if method.containing_service.file.package == f"luthier.{name}.v1"]
    assert {policy_of(method).scope for method in methods} <= {*spec.scopes, *spec.operator_scopes}


@every_changing_method
def test_only_a_write_scope_lets_a_caller_change_things(method: MethodDescriptor) -> None:
    assert not policy_of(method).scope.endswith(".read")


def test_only_the_operator_sees_what_is_stored() -> None:
    methods = [method for method in METHODS if method.containing_service.name == "StorageService"]
    assert {policy_of(method).scope for method in methods} <= OPERATOR_SCOPES


@every_method
def test_only_a_watch_has_no_time_limit(method: MethodDescriptor) -> None:
    policy = policy_of(method)
    is_unlimited = policy.HasField("limit") and not policy.limit.ToTimedelta()
    assert is_unlimited == method.name.startswith("Watch")


def test_the_stubs_are_part_of_the_sdk() -> None:
    assert {module.name for module in pkgutil.iter_modules(luthier.__path__)} >= set(SERVICES)
