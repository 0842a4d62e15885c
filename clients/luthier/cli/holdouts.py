"""luthier holdout"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from luthier.cli.session import Command, Group, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.evaluator.v1.evaluation_pb2 import Evaluation
    from luthier.evaluator.v1.holdout_pb2 import Holdout, HoldoutAccess


@click.group(cls=Group)
def holdout() -> None:
    """How often a holdout has been looked at, by whom, and what its figures are still worth."""


@holdout.command(cls=Command)
@click.argument("revision")
def show(session: Session, *, revision: str) -> None:
    """How worn the holdout of a dataset REVISION is, and whether it keeps a final slice back."""
    from luthier.display import to_document

    async def work(client: AsyncClient) -> Holdout:
        return await client.holdouts.get(await _revision(client, session, revision))

    found = session.run(work)
    if session.as_json:
        session.emit(to_document(found))
        return
    use = found.use
    session.table(
        ["", "#"],
        [
            ("rows", found.row_count),
            ("groups", found.group_count),
            ("rows of the final slice", use.final_row_count or "none: too small"),
            ("evaluations that looked", use.access_count),
            ("reads of the final slice", found.final_read_count),
            ("chance of a false GO, at most", f"{use.false_go_bound:.0%}"),
        ],
        title=found.name,
    )
    if use.is_overused:
        click.echo("over-used: decide on the final slice (`luthier evaluate --final`) or on new rows")


@holdout.command(cls=Command)
@click.argument("revision")
def ledger(session: Session, *, revision: str) -> None:
    """Every look at the holdout of a dataset REVISION, newest first."""
    from luthier.display import to_document, when

    async def work(client: AsyncClient) -> list[HoldoutAccess]:
        name = await _revision(client, session, revision)
        return [access async for access in client.holdouts.list_accesses(name)]

    accesses = session.run(work)
    if session.as_json:
        for access in accesses:
            session.emit(to_document(access))
        return
    session.table(
        ["when", "who", "what", "evaluation", "adapter", "slice", "#rows", "counts", "why"],
        [
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
        ],
    )


async def _revision(client: AsyncClient, session: Session, value: str) -> str:
    from luthier.cli.datasets import latest_revision, revision_name

    return await latest_revision(client, revision_name(session, value))


def show_evidence(session: Session, evaluation: Evaluation) -> None:
    """When differences were decided, how many answers were reused, how worn the holdout is, what resembles its rows."""
    from luthier.display import arm_name, enum_name, interval

    if evaluation.sequential_decisions:
        session.table(
            ["metric", "difference of", "decided", "#rows", "#looks", "#estimate"],
            [
                (
                    found.target.metric,
                    f"{arm_name(found.target.arm)} - {arm_name(found.target.reference)} > {found.target.at_least:g}",
                    enum_name(found, "outcome").lower(),
                    found.row_count,
                    found.round_count,
                    interval(found.difference, found.interval_low, found.interval_high),
                )
                for found in evaluation.sequential_decisions
            ],
            title="decided [interval that holds at every look]",
        )
    if reused := sum(arm.cached_row_count for arm in evaluation.arms):
        session.note(f"{reused} answers are of other evaluations; latency and cost leave them out")
    if evaluation.leakage.counts:
        session.note(f"rows that training data resembles: {dict(evaluation.leakage.counts)}; see --json")
    if evaluation.holdout_use.is_overused:
        use = evaluation.holdout_use
        session.note(
            f"warning: this holdout has been used {use.access_count} times: the chance of at least one false GO is up "
            f"to {use.false_go_bound:.0%}; decide on its final slice (--final) or on new rows"
        )
