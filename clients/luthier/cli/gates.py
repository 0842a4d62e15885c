"""luthier gate"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from luthier.cli import exits
from luthier.cli.session import Command, Session

if TYPE_CHECKING:
    from luthier.evaluator.v1.gate_pb2 import GateDecision, GatePolicy


@click.command(cls=Command)
@click.argument("evaluation")
@click.option("--policy", required=True, metavar="FILE.yaml", help="YAML of a GatePolicy, or the name of a stored one.")
def gate(session: Session, *, evaluation: str, policy: str) -> int:
    """Judge EVALUATION by a policy. Exit code: 0 GO, 1 NO-GO, 2 INCONCLUSIVE."""
    from luthier.cli.documents import to_document

    resource = session.name("evaluation", evaluation)
    rule = _policy(policy)
    decision = session.run(lambda client: client.gates.run(resource, policy=rule))
    if session.as_json:
        session.emit(to_document(decision))
    else:
        _show(session, decision)
    return {"GO": exits.OK, "NO_GO": exits.NO_GO}.get(str(to_document(decision)["outcome"]), exits.INCONCLUSIVE)


def _policy(value: str) -> str | GatePolicy:
    from luthier import config_files, names
    from luthier.evaluator.v1.gate_pb2 import GatePolicy

    if value.startswith("tenants/"):
        return str(names.parse_as(value, "gate_policy"))
    return config_files.load(pathlib.Path(value), GatePolicy)


def _show(session: Session, decision: GateDecision) -> None:
    from luthier.cli.documents import interval, to_document
    from luthier.cli.evaluations import arm_name

    rows = []
    for found, plain in zip(decision.conditions, to_document(decision)["conditions"], strict=True):
        condition = found.condition
        against = f" - {arm_name(condition.reference)}" if condition.reference else ""
        rows.append(
            (
                condition.metric,
                f"{arm_name(condition.arm)}{against}",
                f"> {condition.at_least:g}",
                interval(found.estimate, found.interval_low, found.interval_high),
                plain["outcome"].replace("_", " "),
                plain["condition"]["tier"].lower(),
                found.explanation,
            )
        )
    session.table(["metric", "of", "bound", "#estimate", "outcome", "tier", "why"], rows, title=decision.evaluation)
    for warning in decision.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(str(to_document(decision)["outcome"]).replace("NO_GO", "NO-GO"))
