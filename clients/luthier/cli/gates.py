"""luthier gate [run] | plan | selftest | delete"""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING

import click
from google.protobuf.message import Message

from luthier import config_files, gate_reports, names
from luthier.cli import exits
from luthier.cli.deletion import add_delete, named
from luthier.cli.files import NEW_FILE
from luthier.cli.revisions import dataset_revision
from luthier.cli.session import Group, Session
from luthier.display import arm_name, enum_name, interval, to_document
from luthier.evaluator.v1.gate_pb2 import GateDecision, GatePolicy
from luthier.evaluator.v1.gate_plan_pb2 import GatePlan, GateSelfTest

if TYPE_CHECKING:
    from luthier.client import AsyncClient

EXITS = {"GO": exits.OK, "PASS": exits.OK, "NO_GO": exits.NO_GO, "BREACH": exits.NO_GO}
POLICY_HELP = "YAML of a GatePolicy, or the name of a stored one."


class GateGroup(Group):
    """`luthier gate EVALUATION` is `luthier gate run EVALUATION`: running is what a gate is for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=GateGroup)
def gate() -> None:
    """Judge evaluations by a policy. Exit code: 0 GO, 1 NO-GO, 2 INCONCLUSIVE.

    `luthier gate EVALUATION --policy FILE.yaml` is short for `luthier gate run EVALUATION --policy FILE.yaml`.
    """


@gate.command()
@click.argument("evaluation")
@click.option("--policy", required=True, metavar="FILE.yaml", help=POLICY_HELP)
@click.option("--json-file", type=NEW_FILE, help="JSON file to also write.")
@click.option("--junit", type=NEW_FILE, help="JUnit XML to write, a test case per condition and limit.")
@click.option("--markdown", type=NEW_FILE, help="Markdown to write, for a pull request.")
def run(
    session: Session,
    *,
    evaluation: str,
    policy: str,
    json_file: pathlib.Path | None,
    junit: pathlib.Path | None,
    markdown: pathlib.Path | None,
) -> int:
    """Judge EVALUATION by a policy. Exit code: 0 GO, 1 NO-GO, 2 INCONCLUSIVE."""
    resource = session.name("evaluation", evaluation)
    rule = _policy(policy)
    decision = session.run(lambda client: client.gates.run(resource, policy=rule))
    if json_file:
        text = json.dumps(to_document(decision), ensure_ascii=False, indent=1)
        json_file.write_text(text + "\n", encoding="utf-8")
    if junit:
        junit.write_text(gate_reports.junit(decision), encoding="utf-8")
    if markdown:
        markdown.write_text(gate_reports.markdown(decision), encoding="utf-8")
    session.show(decision, lambda decision: _show(session, decision))
    return _exit(decision)


@gate.command()
@click.option("--policy", required=True, metavar="FILE.yaml", help=POLICY_HELP)
@click.option("--dataset", required=True, metavar="REVISION", help="The rows; `ID` alone means the newest revision.")
@click.option("--split", type=click.Choice(["holdout", "validation"]), default="holdout", help="Default holdout.")
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="Maximum number of rows; 0: all.")
@click.option("--pilot", metavar="EVALUATION", help="An evaluation of the same task, to take variances from.")
def plan(session: Session, *, policy: str, dataset: str, split: str, limit: int, pilot: str | None) -> int:
    """Check before any training whether these rows can prove a policy, and how many rows would be enough.

    Exit code: 0 every critical condition can be proved, 1 one cannot, 2 there is none.
    """
    session.adopt(dataset, pilot)
    rule = _policy(policy)

    async def work(client: AsyncClient) -> GatePlan:
        rows = await dataset_revision(client, session, dataset)
        evaluation = session.name("evaluation", pilot) if pilot else ""
        return await client.gates.plan(rows, policy=rule, split=split, row_limit=limit, pilot_evaluation=evaluation)

    found = session.run(work)
    session.show(found, lambda found: _show_plan(session, found))
    return _exit(found)


@gate.command()
@click.argument("evaluation")
@click.option("--experiments", type=click.IntRange(100, 2000), default=500, metavar="N", help="100 to 2,000.")
@click.option("--seed", type=int, default=0)
def selftest(session: Session, *, evaluation: str, experiments: int, seed: int) -> int:
    """A/A test: how often two identical arms would be told apart on EVALUATION's rows. Queries no model.

    Exit code: 0 at most as often as the level allows, 1 more often, 2 there are too few groups to tell.
    """
    resource = session.name("evaluation", evaluation)
    found = session.run(lambda client: client.gates.self_test(resource, experiment_count=experiments, seed=seed))
    session.show(found, lambda found: _show_self_test(session, found))
    return _exit(found)


def _exit(message: Message) -> int:
    return EXITS.get(enum_name(message, "outcome"), exits.INCONCLUSIVE)


def _policy(value: str) -> str | GatePolicy:
    if value.startswith("tenants/"):
        return str(names.parse_as(value, "gate_policy"))
    return config_files.load(pathlib.Path(value), GatePolicy)


def _outcome(message: Message) -> str:
    """The outcome for people, e.g. `NO-GO`."""
    return enum_name(message, "outcome").replace("NO_GO", "NO-GO").replace("_", " ")


def _show(session: Session, decision: GateDecision) -> None:
    rows = [
        (
            line.what,
            line.bound,
            line.found,
            line.adjusted_p_value,
            line.coverage,
            line.outcome.replace("_", " "),
            line.tier,
            line.why,
        )
        for line in gate_reports.lines_of(decision)
    ]
    columns = ["condition", "required", "#estimate", "#adjusted p", "#coverage", "outcome", "tier", "explanation"]
    session.table(columns, rows, title=decision.evaluation)
    for warning in decision.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(_outcome(decision))


def _show_plan(session: Session, found: GatePlan) -> None:
    rows = [
        (
            one.condition.metric,
            f"> {one.condition.at_least:g}",
            f"{one.condition.expected:g}",
            f"{one.condition.at_least + one.minimum_detectable_effect:.3f}",
            one.row_count,
            one.group_count,
            one.needed_row_count or "-",
            one.needed_group_count or "-",
            one.variance_source,
            "provable" if enum_name(one, "outcome") == "PASS" else "NOT PROVABLE",
            one.explanation,
        )
        for one in found.conditions
    ]
    columns = ["metric", "required", "#expected", "#detectable at 80 % power", "#rows", "#groups", "#rows needed"]
    columns += ["#groups needed", "variance", "outcome", "explanation"]
    session.table(columns, rows, title=found.dataset_revision)
    click.echo(_outcome(found))


def _show_self_test(session: Session, found: GateSelfTest) -> None:
    rows = [
        (
            one.metric,
            f"{arm_name(one.arm)} = {arm_name(one.reference)}",
            interval(one.false_go_rate, one.interval_low, one.interval_high),
            f"{found.alpha:.3f}",
            one.group_count,
        )
        for one in found.results
    ]
    title = f"share of {found.experiment_count} experiments in which identical arms were told apart"
    session.table(["metric", "arms", "#false GO", "#allowed", "#groups"], rows, title=title)
    click.echo(_outcome(found))


add_delete(gate, named("gate_policy"), "Delete the stored policy NAME.")
