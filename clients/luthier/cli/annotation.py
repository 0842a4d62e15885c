"""luthier annotate create | rate | next | vote | list | votes | summary | delete"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from luthier import config_files
from luthier.cli.deletion import add_delete, named
from luthier.cli.session import Group, Session
from luthier.display import arm_name, interval, when
from luthier.evaluator.v1.annotation_queue_pb2 import (
    AnnotationChoice,
    AnnotationItem,
    AnnotationQueue,
    AnnotationSummary,
    Estimate,
)
from luthier.evaluator.v1.annotation_queue_service_pb2 import GetNextAnnotationItemResponse

if TYPE_CHECKING:
    from luthier.client import AsyncClient

CHOICES = ("left", "right", "tie")
RATINGS = ("1", "2", "3", "4", "5")


@click.group("annotate", cls=Group)
def annotate() -> None:
    """Blind annotation: people judge answers without knowing which arm gave them."""


@annotate.command()
@click.argument("evaluation")
@click.option("--arms", required=True, metavar="ARM,ARM", help="Arms whose answers to compare (two) or rate (any).")
@click.option("--mode", type=click.Choice(["pairwise", "rating"]), default="pairwise", show_default=True)
@click.option("--limit", "row_limit", type=click.IntRange(min=0), default=0, metavar="N", help="Maximum rows; 0: all.")
@click.option("--votes", "votes_per_item", type=click.IntRange(1, 20), metavar="N", help="Raters per item. Default 2.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for the order and the positions.")
@click.option("--show-reference", "shows_reference", is_flag=True, help="Show raters the reference answer.")
def create(session: Session, *, evaluation: str, arms: str, mode: str, **options: Any) -> None:
    """Create a queue of EVALUATION's answers."""
    resource = session.name("evaluation", evaluation)
    named = [arm.strip() for arm in arms.split(",") if arm.strip()]
    how = config_files.load({"arms": named, "mode": mode}, AnnotationQueue)
    options |= {"evaluation": resource, "arms": how.arms, "mode": how.mode}
    found = session.run(lambda client: client.annotation_queues.create(session.parent, **options))
    session.show(found, lambda found: click.echo(found.name))
    session.note(f"{found.item_count:,} items; raters need a token: luthier auth issue --scopes evaluator.rate")
    session.note(f"then: luthier annotate rate {found.name}")


@annotate.command("next")
@click.argument("queue")
def next_(session: Session, *, queue: str) -> None:
    """Show the next item of QUEUE for the caller."""
    resource = session.name("annotation_queue", queue)
    found = session.run(lambda client: client.annotation_queues.next_item(resource))
    if session.as_json:
        session.emit(found)
    elif found.HasField("item"):
        _show_item(found)
    else:
        session.note(f"nothing is left for you; you judged {found.judged_count:,} items")


@annotate.command()
@click.argument("queue")
@click.argument("item")
@click.argument("verdict", type=click.Choice([*CHOICES, *RATINGS]))
@click.option("--comment", default="", metavar="TEXT", help="Why.")
def vote(session: Session, *, queue: str, item: str, verdict: str, comment: str) -> None:
    """Vote on ITEM: which answer is better (left, right, tie), or how good it is (1 to 5)."""
    resource = session.name("annotation_queue", queue)
    options = _vote(verdict) | {"comment": comment}
    found = session.run(lambda client: client.annotation_queues.vote(resource, item, **options))
    if session.as_json:
        session.emit(found)


@annotate.command()
@click.argument("queue")
def rate(session: Session, *, queue: str) -> None:
    """Judge the items of QUEUE one by one; `q` stops, and the next run continues."""
    if session.as_json:
        raise click.UsageError("rating is interactive; programs use `next` and `vote`")
    resource = session.name("annotation_queue", queue)

    async def work(client: AsyncClient) -> int:
        count = 0
        while (found := await client.annotation_queues.next_item(resource)).HasField("item"):
            _show_item(found)
            verdict = await asyncio.to_thread(_typed_verdict, found.item, click.prompt)
            if verdict is None:
                break
            await client.annotation_queues.vote(resource, found.item.item_id, **_vote(verdict))
            count += 1
        return count

    session.note(f"{session.run(work):,} votes recorded; thank you")


def _typed_verdict(item: AnnotationItem, prompt: Callable[..., Any]) -> str | None:
    """What the person types; None to stop."""
    if len(item.answers) == 1:
        typed = prompt("how good, 1 (useless) to 5 (perfect); q stops", type=click.Choice([*RATINGS, "q"]))
        return None if typed == "q" else str(typed)
    typed = prompt("which is better: 1, 2, or t for a tie; q stops", type=click.Choice(["1", "2", "t", "q"]))
    return {"1": "left", "2": "right", "t": "tie"}.get(str(typed))


def _vote(verdict: str) -> dict[str, Any]:
    if verdict in RATINGS:
        return {"rating": int(verdict)}
    return {"choice": AnnotationChoice.Value(f"ANNOTATION_CHOICE_{verdict.upper()}")}


def _show_item(found: GetNextAnnotationItemResponse) -> None:
    item = found.item
    click.echo(f"\n--- {item.item_id}; {found.waiting_count:,} left for you\n{item.question}")
    if item.reference:
        click.echo(f"\n[expected]\n{item.reference}")
    for number, answer in enumerate(item.answers, start=1):
        click.echo(f"\n[answer {number}]\n{answer}" if len(item.answers) > 1 else f"\n[answer]\n{answer}")


@annotate.command("list")
def list_(session: Session) -> None:
    """List the tenant's queues."""
    session.show_list(
        "annotation_queues",
        lambda client: client.annotation_queues.list(session.parent),
        {
            "name": lambda one: one.name,
            "evaluation": lambda one: one.evaluation,
            "arms": lambda one: ", ".join(map(arm_name, one.arms)),
            "#items": lambda one: one.item_count,
            "created (UTC)": lambda one: when(one.create_time),
        },
    )


@annotate.command()
@click.argument("queue")
def votes(session: Session, *, queue: str) -> None:
    """Print the votes of QUEUE as JSONL, with the arms that they were about."""
    resource = session.name("annotation_queue", queue)
    for found in session.read(lambda client: client.annotation_queues.list_votes(resource, page_size=500)):
        session.emit(found)


@annotate.command()
@click.argument("queue")
@click.option("--judge", metavar="METRIC", default="", help="The evaluation's metric that a model judge gave.")
def summary(session: Session, *, queue: str, judge: str) -> None:
    """Show the result of the votes, the agreement of raters and judge, and the judge's scores corrected by votes."""
    resource = session.name("annotation_queue", queue)
    found = session.run(lambda client: client.annotation_queues.summary(resource, judge_metric=judge))
    session.show(found, lambda found: _show_summary(session, found))


def _show_summary(session: Session, found: AnnotationSummary) -> None:
    click.echo(
        f"{found.vote_count:,} votes of {found.rater_count:,} raters on {found.judged_item_count:,} of "
        f"{found.item_count:,} items; raters: alpha {found.rater_alpha:.2f}, kappa {found.rater_kappa:.2f}"
    )
    if found.judge_metric:
        click.echo(f"judge {found.judge_metric}: alpha {found.judge_alpha:.2f}, kappa {found.judge_kappa:.2f}")
    rows = []
    for result in found.figures:
        of = arm_name(result.arm) + (f" over {arm_name(result.reference)}" if result.reference else "")
        estimates = [_estimate(result, name) for name in ("human", "judge", "corrected")]
        rows.append((of, *estimates, f"{result.judge_weight:.2f}" if result.HasField("corrected") else ""))
    session.table(["of", "#people", "#judge", "#judge, corrected by people", "#weight"], rows, title="[95 % interval]")


def _estimate(result: Any, name: str) -> str:
    if not result.HasField(name):
        return ""
    found: Estimate = getattr(result, name)
    return f"{interval(found.value, found.interval_low, found.interval_high)} ({found.item_count:,})"


add_delete(annotate, named("annotation_queue"), "Delete queue NAME with its votes.")
