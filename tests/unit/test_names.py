"""Resource names: parsed once, and exactly."""

from __future__ import annotations

import luthierd.names
import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.names import (
    ADAPTER_REVISION,
    BASE_MODEL,
    DATASET,
    TENANT,
    NamePattern,
    check_name,
    parse_id,
    revision_number,
)

PATTERNS = [value for value in vars(luthierd.names).values() if isinstance(value, NamePattern)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.pattern)
def test_what_was_formatted_is_parsed_again(pattern: NamePattern) -> None:
    parts = tuple(f"id-{number}" for number in range(pattern.pattern.count("{")))
    assert pattern.parse(pattern.format(*parts)) == parts


def test_the_parts_come_in_order() -> None:
    assert ADAPTER_REVISION.parse("tenants/acme/adapters/support/revisions/r3") == ("acme", "support", "r3")
    assert BASE_MODEL.format("smollm2") == "baseModels/smollm2"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "tenants",
        "tenants/acme",
        "tenants/acme/datasets",
        "tenants/acme/datasets/",
        "tenants//datasets/d",
        "tenants/acme/datasets/d/revisions/r1",
        "tenants/acme/dataset/d",
        "/tenants/acme/datasets/d",
        "tenants/acme/datasets/D",
        "tenants/acme/datasets/1d",
        "tenants/acme/datasets/d-",
        "tenants/acme/datasets/a_b",
        "tenants/acme/datasets/..",
        "tenants/acme/datasets/d\n",
        "tenants/acme/datasets/é",
        "tenants/-/datasets/d",
        "tenants/acme/datasets/" + "d" * 64,
    ],
)
def test_what_is_no_name_is_refused_with_its_field(name: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        DATASET.parse(name, field="training_job.dataset")
    (violation,) = caught.value.violations
    assert violation.field == "training_job.dataset"
    assert "tenants/{tenant}/datasets/{dataset}" in violation.description


@pytest.mark.parametrize("tenant", ["a", "a1", "a-b", "x" * 63])
def test_ids_at_the_bounds_are_names(tenant: str) -> None:
    assert TENANT.parse(f"tenants/{tenant}") == (tenant,)
    assert parse_id(tenant, field="tenant_id") == tenant


@pytest.mark.parametrize("value", ["", "A", "-a", "a-", "a/b", "x" * 64, "a\n"])
def test_what_is_no_id_is_refused_with_its_field(value: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_id(value, field="dataset_id")
    assert [violation.field for violation in caught.value.violations] == ["dataset_id"]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.pattern)
def test_every_kind_of_name_is_a_name(pattern: NamePattern) -> None:
    check_name(pattern.format(*(["x" * 63] * pattern.pattern.count("{"))), field="names[0]")


@pytest.mark.parametrize("name", ["", "tenants", "tenants/", "datasets/a", "tenants/a%", "tenants/" + "x" * 64])
def test_what_no_resource_is_called_is_no_name(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_name(name, field="names[0]")


def test_revisions_are_numbered() -> None:
    assert [revision_number(one) for one in ("r1", "r10", "r999999999")] == [1, 10, 999_999_999]


@pytest.mark.parametrize("revision", ["", "r", "1", "r0", "r01", "r-1", "r" + "9" * 10, "r" + "9" * 5000, "r٣", "R1"])
def test_what_no_revision_can_be_called_has_no_number(revision: str) -> None:
    assert revision_number(revision) is None
