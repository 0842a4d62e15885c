"""Scopes and limits are read from the contract; a method without a known scope fails the start."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from luthier.curation.v1 import dataset_service_pb2 as pb
from luthier.options.v1 import call_policy_pb2
from luthierd.config import ConfigError
from luthierd.rpc.contract import Method, methods_of, services_of
from support.scripted import FULL_NAME, rpc


def service_with(policy: call_policy_pb2.CallPolicy | None) -> ServiceDescriptor:
    """A service whose one method has this policy."""
    method = descriptor_pb2.MethodDescriptorProto(name="Do", input_type=".test.Empty", output_type=".test.Empty")
    if policy is not None:
        method.options.Extensions[call_policy_pb2.call].CopyFrom(policy)
    file = descriptor_pb2.FileDescriptorProto(name="test.proto", package="test")
    file.message_type.add(name="Empty")
    file.service.add(name="Service").method.append(method)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("test.Service")


def policy(scope: str, **limit: int) -> call_policy_pb2.CallPolicy:
    return call_policy_pb2.CallPolicy(scope=scope, limit=limit or None)


def test_a_method_has_the_scope_and_the_limit_of_its_option() -> None:
    found = methods_of([service_with(policy("trainer.read", seconds=2, nanos=500_000_000))])
    assert found == {"/test.Service/Do": Method("Do", "trainer.read", 2.5)}


def test_a_limit_of_zero_is_none_and_an_unset_one_is_a_minute() -> None:
    assert methods_of([service_with(policy("trainer.read", seconds=0))])["/test.Service/Do"].limit_s == 0.0
    assert methods_of([service_with(policy("trainer.read"))])["/test.Service/Do"].limit_s == 60.0


@pytest.mark.parametrize("wrong", [None, policy(""), policy("curation.red")])
def test_a_method_without_a_known_scope_fails_the_start(wrong: call_policy_pb2.CallPolicy | None) -> None:
    with pytest.raises(ConfigError, match=r"test\.Service\.Do"):
        methods_of([service_with(wrong)])


def test_a_servicer_is_known_by_the_generated_class_it_derives_from() -> None:
    class Datasets(rpc.DatasetServiceServicer):
        pass

    assert services_of(Datasets()) == [pb.DESCRIPTOR.services_by_name["DatasetService"]]
    assert services_of(Datasets())[0].full_name == FULL_NAME
