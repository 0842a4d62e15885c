"""What a `model` names, and the cards of models."""

from __future__ import annotations

import contextlib
from typing import Any

from luthierd.errors import InvalidArgumentError
from luthierd.inference.completions.leases import Models
from luthierd.inference.deployments.deployments import Deployments
from luthierd.inference.domain.completion import Target
from luthierd.inference.domain.deployment import Deployment
from luthierd.inference.domain.errors import BaseModelNotFoundError, DeploymentNotFoundError, EngineUnavailableError
from luthierd.inference.engine.host import EngineHost
from luthierd.names import ADAPTER_REVISION, BASE_MODEL, DEPLOYMENT
from luthierd.paging import MAX_PAGE_SIZE, PageRequest
from luthierd.rpc.auth import Principal

EVALUATE_SCOPE = "inference.evaluate"
"""An adapter revision need not be deployed by an operator, so it requires an additional scope, as over gRPC."""


def target_of(model: str, principal: Principal) -> Target:
    """What a `model` names: `support` or `tenants/T/deployments/support`, `baseModels/B`, and `adapters/A@R` or
    `tenants/T/adapters/A/revisions/R`. PermissionDeniedError before anything is looked up, InvalidArgumentError.
    """
    if model.startswith("baseModels/"):
        BASE_MODEL.parse(model, field="model")
        return Target(Target.BASE_MODEL, model)
    principal.require_tenant(model)
    if model.startswith("adapters/") or "/adapters/" in model:
        principal.require_scope(EVALUATE_SCOPE)
        if model.startswith("adapters/"):
            adapter, at, revision = model.removeprefix("adapters/").partition("@")
            if not at:
                raise InvalidArgumentError.of_field("model", f"name a revision: {model}@REVISION")
            model = ADAPTER_REVISION.format(principal.tenant, adapter, revision)
        ADAPTER_REVISION.parse(model, field="model")
        return Target(Target.ADAPTER_REVISION, model)
    name = model if "/" in model else DEPLOYMENT.format(principal.tenant, model)
    DEPLOYMENT.parse(name, field="model")
    return Target(Target.DEPLOYMENT, name)


class Catalogue:
    """The models that a caller can name."""

    def __init__(self, deployments: Deployments, host: EngineHost, models: Models) -> None:
        self._deployments, self._host, self._models = deployments, host, models

    def cards(self, principal: Principal) -> dict[str, Any]:
        """The tenant's deployments, and the base model."""
        page = self._deployments.list(f"tenants/{principal.tenant}", PageRequest.parse(MAX_PAGE_SIZE, ""))
        cards = [self._of_deployment(one) for one in page.items if one.live]
        base_model = self._host.status.base_model
        if base_model is not None:
            cards.append(self._card(base_model.name, owner="luthier"))
        return {"object": "list", "data": cards}

    async def card(self, model: str, principal: Principal) -> dict[str, Any]:
        """The card of one model, under the name in the request. NotFoundError, and those of `target_of`."""
        target = target_of(model, principal)
        if target.kind == Target.DEPLOYMENT:
            deployment = self._deployments.get(target.name)
            if not deployment.live:
                raise DeploymentNotFoundError(deployment=target.name)
            return {**self._of_deployment(deployment), "id": model}
        if target.kind == Target.ADAPTER_REVISION:
            revision = await self._models.adapter_revision(target.name)
            return self._card(model, owner=principal.tenant, root=revision.name, parent=revision.base_model.name)
        base_model = self._host.status.base_model
        if base_model is None or base_model.name != target.name:
            raise BaseModelNotFoundError(base_model=target.name)
        return self._card(model, owner="luthier")

    def _of_deployment(self, deployment: Deployment) -> dict[str, Any]:
        _, tenant, _, name = deployment.name.split("/")
        live = deployment.live
        assert live is not None
        return self._card(
            name, created=deployment.create_time, owner=tenant, root=live.name, parent=live.base_model.name
        )

    def _card(
        self, name: str, *, owner: str, created: float = 0, root: str = "", parent: str | None = None
    ) -> dict[str, Any]:
        """`root`: the weights; `max_model_len`: tokens of prompt and answer, null while the engine does not run."""
        window = None
        with contextlib.suppress(EngineUnavailableError):
            window = self._host.ready_engine().window
        return {
            "id": name,
            "object": "model",
            "created": int(created),
            "owned_by": owner,
            "root": root or name,
            "parent": parent,
            "max_model_len": window,
        }
