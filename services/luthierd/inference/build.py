"""What decides which weights answer: the engine's life, the adapters in it, deployments, and what tenants may have.

These parts call each other in circles (a start replays deployments, a death forgets adapters); they are joined here.
"""

from __future__ import annotations

from dataclasses import dataclass

from luthierd.inference.adapters.artifacts import Artifacts
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.adapters.parity import prove
from luthierd.inference.admission.quotas import Quotas
from luthierd.inference.config import InferenceConfig
from luthierd.inference.deployments.deployments import Catalog, Deployments
from luthierd.inference.deployments.store import SqlStore
from luthierd.inference.engine.engine import StartEngine
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.replicas.replicas import Replicas
from luthierd.inference.replicas.store import make_replicas
from luthierd.rpc.server import Health
from luthierd.storage.database import Database


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The joined parts. `replicas`: None if this server has the desired state to itself."""

    host: EngineHost
    loaded_adapters: LoadedAdapters
    quotas: Quotas
    deployments: Deployments
    replicas: Replicas | None


async def make_routing(
    database: Database,
    config: InferenceConfig,
    *,
    start_engine: StartEngine,
    artifacts: Artifacts,
    catalog: Catalog,
    health: Health,
) -> Routing:
    """Reads the desired state; the engine starts with `host.run`."""
    store = SqlStore(database)
    replicas = make_replicas(database, store, config, health.set_serving)
    host = EngineHost(start=start_engine, files=artifacts, store=store, set_serving=(replicas or health).set_serving)
    loaded_adapters = LoadedAdapters(
        files=artifacts,
        prove=prove,
        proofs=store,
        max_cpu_loras=config.max_cpu_loras,
        max_unheld=config.max_unheld_adapters,
    )
    quotas = Quotas(
        store=store, defaults=config.default_limits, count_replicas=replicas.live_count if replicas else None
    )
    deployments = Deployments(
        store=replicas or store,
        catalog=catalog,
        loaded_adapters=loaded_adapters,
        host=host,
        check_adapters=quotas.check_adapters,
    )
    host.on_started, host.on_died = deployments.replay, loaded_adapters.forget_all
    if replicas is not None:
        replicas.attach(host, deployments, loaded_adapters)
    await deployments.read()
    await quotas.read()
    return Routing(
        host=host, loaded_adapters=loaded_adapters, quotas=quotas, deployments=deployments, replicas=replicas
    )
