"""What a policy and an opinion may be."""

from __future__ import annotations

import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.inference.domain.feedback import CapturePolicy, Opinion, PolicyChange, Rating


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (PolicyChange(retention_s=59), "capture_policy.retention"),
        (PolicyChange(retention_s=367 * 86400), "capture_policy.retention"),
        (PolicyChange(sample_rate=0), "capture_policy.sample_rate"),
        (PolicyChange(sample_rate=1.01), "capture_policy.sample_rate"),
        (PolicyChange(sample_rate=float("nan")), "capture_policy.sample_rate"),
    ],
)
def test_a_policy_out_of_its_range_is_refused_with_its_field(change: PolicyChange, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        CapturePolicy(tenant="acme").changed(change, 0.0)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    ("correction", "labels", "field"),
    [
        ("", (), "rating"),
        ("  ", (), "rating"),
        ("x" * 32_769, (), "correction"),
        ("a\0b", (), "correction"),
        ("", ("x",) * 17, "labels"),
        ("", ("ok", ""), "labels[1]"),
        ("", ("x" * 65,), "labels[0]"),
        ("", (" x",), "labels[0]"),
        ("", ("a\nb",), "labels[0]"),
    ],
)
def test_an_opinion_beyond_its_bounds_is_refused_with_its_field(
    correction: str, labels: tuple[str, ...], field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Opinion.parse(Rating.UNSPECIFIED, correction, labels)
    assert caught.value.violations[0].field == field
