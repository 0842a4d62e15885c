from __future__ import annotations

import pytest
from luthier import names
from luthier.errors import InvalidNameError


@pytest.mark.parametrize(
    "name",
    [
        "tenants/acme",
        "tenants/acme/datasets/d-1/revisions/r12",
        "tenants/acme/trainingJobs/j",
        "tenants/acme/adapters/a/revisions/r1",
        "tenants/acme/evaluations/e",
        "tenants/acme/gatePolicies/p",
        "tenants/acme/deployments/d",
        "baseModels/smollm2-135m",
    ],
)
def test_a_name_survives_parsing_and_building(name):
    parsed = names.parse(name)
    assert str(parsed) == name
    assert names.build(parsed.kind, *parsed.ids) == name


@pytest.mark.parametrize("name", ["", "tenants", "tenants/", "tenants/Acme", "tenants/a/b/c", "baseModels/-x", "x/y/z"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(InvalidNameError) as caught:
        names.parse(name)
    assert caught.value.reason == "INVALID_NAME"


def test_a_name_of_another_kind_is_told_the_pattern_it_should_have():
    with pytest.raises(InvalidNameError, match=r"tenants/\{tenant\}/gatePolicies/\{gate_policy\}"):
        names.parse_as("tenants/acme/deployments/d", "gate_policy")


def test_a_name_knows_its_parent_tenant_and_id():
    revision = names.parse("tenants/acme/adapters/a/revisions/r1")
    assert (revision.parent, revision.tenant, revision.id) == ("tenants/acme/adapters/a", "acme", "r1")
    assert names.parse("baseModels/m").tenant == ""


def test_an_id_that_is_not_permitted_is_told_what_is():
    with pytest.raises(InvalidNameError, match="lower-case"):
        names.deployment("acme", "My Deployment")
