"""luthier gate [run] | plan | selftest"""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

import click

from luthier.cli import exits
from luthier.cli.session import Group, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.evaluator.v1.gate_pb2 import GateDecision, GatePolicy
    from luthier.evaluator.v1.gate_plan_pb2 import GatePlan, GateSelfTest

FILE = click.Path(dir_okay=False, path_type=pathlib.Path)
EXITS = {"GO": exits.OK, "PASS": exits.OK, "NO_GO": exits.NO_GO, "BREACH": exits.NO_GO}
POLICY_HELP = "YAML of a GatePolicy, or the name of a stored one."


class GateGroup(Group):
    """`luthier gate EVALUATION` is `luthier gate run EVALUATION`: judging is what a gate is for."""

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
@click.option("--json-file", type=FILE, help="JSON file to write, beside what is printed.")
@click.option("--junit", type=FILE, help="JUnit XML to write, a test case for each condition and limit.")
@click.option("--markdown", type=FILE, help="Markdown to write, for a pull request.")
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
    from luthier import gate_reports
    from luthier.display import to_document

    resource = session.name("evaluation", evaluation)
    rule = _policy(policy)
    decision = session.run(lambda client: client.gates.run(resource, policy=rule))
    document = to_document(decision)
    if json_file:
        json_file.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if junit:
        junit.write_text(gate_reports.junit(decision), encoding="utf-8")
    if markdown:
        markdown.write_text(gate_reports.markdown(decision), encoding="utf-8")
    if session.as_json:
        session.emit(document)
    else:
        _show(session, decision)
    return _exit(document)


@gate.command()
@click.option("--policy", required=True, metavar="FILE.yaml", help=POLICY_HELP)
@click.option("--dataset", required=True, metavar="REVISION", help="The rows; `ID` alone means the newest revision.")
@click.option("--split", type=click.Choice(["holdout", "validation"]), default="holdout", help="Default holdout.")
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="Most rows; 0: all.")
@click.option("--pilot", metavar="EVALUATION", help="An evaluation of the same task, to take variances from.")
def plan(session: Session, *, policy: str, dataset: str, split: str, limit: int, pilot: str | None) -> int:
    """Say before any training whether a policy can be proved on these rows, and how many rows would do.

    Exit code: 0 every critical condition can be proved, 1 one cannot, 2 there is none.
    """
    from luthier.cli.datasets import latest_revision, revision_name
    from luthier.display import to_document

    session.adopt(dataset, pilot)
    rule = _policy(policy)

    async def work(client: AsyncClient) -> GatePlan:
        rows = await latest_revision(client, revision_name(session, dataset))
        evaluation = session.name("evaluation", pilot) if pilot else ""
        return await client.gates.plan(rows, policy=rule, split=split, row_limit=limit, pilot_evaluation=evaluation)

    found = session.run(work)
    if session.as_json:
        session.emit(to_document(found))
    else:
        _show_plan(session, found)
    return _exit(to_document(found))


@gate.command()
@click.argument("evaluation")
@click.option("--experiments", type=click.IntRange(100, 2000), default=500, metavar="N", help="100 to 2,000.")
@click.option("--seed", type=int, default=0)
def selftest(session: Session, *, evaluation: str, experiments: int, seed: int) -> int:
    """A/A test: how often two identical arms would be told apart on EVALUATION's rows. Asks no model.

    Exit code: 0 no more often than the level allows, 1 more often, 2 there are too few groups to tell.
    """
    from luthier.display import to_document

    resource = session.name("evaluation", evaluation)
    found = session.run(lambda client: client.gates.self_test(resource, experiment_count=experiments, seed=seed))
    if session.as_json:
        session.emit(to_document(found))
    else:
        _show_self_test(session, found)
    return _exit(to_document(found))


def _exit(document: dict[str, Any]) -> int:
    return EXITS.get(str(document["outcome"]), exits.INCONCLUSIVE)


def _policy(value: str) -> str | GatePolicy:
    from luthier import config_files, names
    from luthier.evaluator.v1.gate_pb2 import GatePolicy

    if value.startswith("tenants/"):
        return str(names.parse_as(value, "gate_policy"))
    return config_files.load(pathlib.Path(value), GatePolicy)


def _show(session: Session, decision: GateDecision) -> None:
    from luthier import gate_reports

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
    columns = ["figure", "asked", "#estimate", "#adjusted p", "#coverage", "outcome", "tier", "why"]
    session.table(columns, rows, title=decision.evaluation)
    for warning in decision.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(gate_reports.outcome_of(decision).replace("NO_GO", "NO-GO"))


def _show_plan(session: Session, found: GatePlan) -> None:
    from luthier import gate_reports
    from luthier.display import to_document

    plans = to_document(found)["conditions"]
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
            "provable" if plain["outcome"] == "PASS" else "NOT PROVABLE",
            one.explanation,
        )
        for one, plain in zip(found.conditions, plans, strict=True)
    ]
    columns = ["metric", "asked", "#expected", "#least provable", "#rows", "#groups", "#rows needed", "#groups needed"]
    session.table([*columns, "variance", "outcome", "why"], rows, title=found.dataset_revision)
    click.echo(gate_reports.outcome_of(found).replace("NO_GO", "NO-GO"))


def _show_self_test(session: Session, found: GateSelfTest) -> None:
    from luthier.display import arm_name, interval, to_document

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
    click.echo(str(to_document(found)["outcome"]).replace("_", " "))
