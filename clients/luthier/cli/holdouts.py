"""luthier holdout show | ledger"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from luthier.cli.revisions import dataset_revision
from luthier.cli.session import Group, Session
from luthier.display import when
from luthier.evaluator.v1.holdout_pb2 import Holdout, HoldoutAccess

if TYPE_CHECKING:
    from luthier.client import AsyncClient


@click.group(cls=Group)
def holdout() -> None:
    """How often a holdout was used, by whom, and what its results are still worth."""


@holdout.command()
@click.argument("revision")
def show(session: Session, *, revision: str) -> None:
    """Show how often the holdout of a dataset REVISION was used, and whether it reserves a final slice."""

    async def work(client: AsyncClient) -> Holdout:
        return await client.holdouts.get(await dataset_revision(client, session, revision))

    session.show(session.run(work), lambda found: _show(session, found))


def _show(session: Session, found: Holdout) -> None:
    use = found.use
    session.table(
        ["", "#"],
        [
            ("rows", found.row_count),
            ("groups", found.group_count),
            ("rows of the final slice", use.final_row_count or "none: too small"),
            ("evaluations that used it", use.access_count),
            ("reads of the final slice", found.final_read_count),
            ("chance of a false GO, at most", f"{use.false_go_bound:.0%}"),
        ],
        title=found.name,
    )
    if use.is_overused:
        click.echo("overused: decide on the final slice (`luthier evaluate --final`) or on new rows")


@holdout.command()
@click.argument("revision")
def ledger(session: Session, *, revision: str) -> None:
    """List every access to the holdout of a dataset REVISION, newest first."""

    async def work(client: AsyncClient) -> list[HoldoutAccess]:
        name = await dataset_revision(client, session, revision)
        return [access async for access in client.holdouts.list_accesses(name)]

    accesses = session.run(work)
    if session.as_json:
        for access in accesses:
            session.emit(access)
        return
    rows = [
        (
            when(access.create_time),
            access.subject,
            f"gate {access.gate_policy}: {access.gate_outcome}" if access.gate_outcome else "evaluation",
            access.evaluation,
            access.adapter_revision,
            "final" if access.final else "open",
            access.row_count or "",
            "yes" if access.is_counted else "",
            access.purpose,
        )
        for access in accesses
    ]
    columns = ["time (UTC)", "subject", "access", "evaluation", "adapter", "slice", "#rows", "counted", "purpose"]
    session.table(columns, rows)
