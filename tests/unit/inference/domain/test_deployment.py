"""How a deployment may change, and what keeps tenants apart."""

from __future__ import annotations

import pytest
from luthierd.inference.domain.completion import cache_salt
from luthierd.inference.domain.deployment import Deployment, Share
from luthierd.inference.domain.errors import NoCandidateError, NoPreviousError
from support.inference_fakes import revision

NEW = Deployment(name="tenants/acme/deployments/d", create_time=1.0, update_time=1.0)
R1, R2, R3 = revision("r1"), revision("r2"), revision("r3")


def test_routing_keeps_what_was_live_for_a_rollback_and_counts() -> None:
    deployment = NEW.route(R1, 2.0).route(R2, 3.0).route(R3, 4.0)
    assert (deployment.live, deployment.previous, deployment.revision) == (R3, R2, 3)
    back = deployment.roll_back(5.0)
    assert (back.live, back.previous, back.revision, back.update_time) == (R2, R3, 4, 5.0)


def test_staging_routes_nothing_and_promoting_uses_the_candidate_up() -> None:
    staged = NEW.route(R1, 2.0).stage(R2, 3.0)
    assert (staged.live, staged.candidate, staged.revision) == (R1, R2, 1)
    promoted = staged.promote(4.0)
    assert (promoted.live, promoted.candidate, promoted.previous) == (R2, None, R1)


def test_staging_ends_a_split_and_an_answer_can_tell_by_the_revision() -> None:
    split = NEW.route(R1, 2.0).route(R2, 3.0).split((Share(R1.sha256, 1), Share(R2.sha256, 1)), "", 4.0)
    staged = split.stage(R3, 5.0)
    assert (staged.shares, staged.live, staged.revision) == ((), R2, split.revision + 1)


def test_every_change_changes_the_etag() -> None:
    changes = [NEW, NEW.route(R1, 2.0)]
    changes.append(changes[-1].stage(R2, 2.0))
    changes.append(changes[-1].promote(2.0))
    changes.append(changes[-1].roll_back(2.0))
    assert len({deployment.etag for deployment in changes}) == 5


def test_what_does_not_exist_can_be_neither_promoted_nor_rolled_back_to() -> None:
    with pytest.raises(NoCandidateError):
        NEW.promote(2.0)
    with pytest.raises(NoPreviousError):
        NEW.route(R1, 2.0).roll_back(3.0)


def test_a_loaded_adapter_is_named_by_its_content() -> None:
    assert revision("r1", content="x").loaded_adapter == revision("r2", content="x").loaded_adapter
    assert revision("r1", content="x").loaded_adapter != revision("r1", content="y").loaded_adapter


def test_salts_differ_by_tenant_and_by_weights_and_cannot_be_forged_by_a_separator() -> None:
    salts = {cache_salt(*pair) for pair in (("a", "g-1"), ("b", "g-1"), ("a", "g-2"), ("a\0g", "-1"))}
    assert len(salts) == 4
    assert all(salt.startswith("luthier:") for salt in salts)


def test_a_cache_salt_is_tagged_so_that_it_is_no_name_of_an_adapter_or_other_salt() -> None:
    salt = cache_salt("acme", "g-1")
    tag, _, digest = salt.rpartition(":")
    assert tag == "luthier:v1"
    assert (len(digest), set(digest) <= set("0123456789abcdef")) == (64, True)
