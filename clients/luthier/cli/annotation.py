"""luthier annotate create | rate | next | vote | list | votes | summary"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.session import Group, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.evaluator.v1.annotation_queue_pb2 import AnnotationItem, AnnotationQueue, AnnotationSummary, Estimate
    from luthier.evaluator.v1.annotation_queue_service_pb2 import GetNextAnnotationItemResponse

CHOICES = ("left", "right", "tie")
RATINGS = ("1", "2", "3", "4", "5")


@click.group("annotate", cls=Group)
def annotate() -> None:
    """Let people judge answers without knowing whose they are."""


@annotate.command()
@click.argument("evaluation")
@click.option("--arms", required=True, metavar="ARM,ARM", help="Whose answers: two to compare, one or more to rate.")
@click.option("--mode", type=click.Choice(["pairwise", "rating"]), default="pairwise", show_default=True)
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="Most rows; 0: all.")
@click.option("--votes", type=click.IntRange(1, 20), metavar="N", help="Raters for each item. Default 2.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order and the positions.")
@click.option("--show-reference", is_flag=True, help="Show raters what was expected.")
def create(
    session: Session,
    *,
    evaluation: str,
    arms: str,
    mode: str,
    limit: int,
    votes: int | None,
    seed: int,
    show_reference: bool,
) -> None:
    """Make a queue of EVALUATION's answers."""
    from luthier import config_files
    from luthier.display import to_document
    from luthier.evaluator.v1.annotation_queue_pb2 import AnnotationQueue

    resource = session.name("evaluation", evaluation)
    named = [arm.strip() for arm in arms.split(",") if arm.strip()]
    how = config_files.load({"arms": named, "mode": mode}, AnnotationQueue)

    async def work(client: AsyncClient) -> AnnotationQueue:
        return await client.annotation_queues.create(
            session.parent,
            evaluation=resource,
            arms=how.arms,
            mode=how.mode,
            row_limit=limit,
            votes_per_item=votes,
            seed=seed,
            shows_reference=show_reference,
        )

    found = session.run(work)
    if session.as_json:
        session.emit(to_document(found))
        return
    click.echo(found.name)
    session.note(f"{found.item_count:,} items; raters need a token: luthier auth issue --scopes evaluator.rate")
    session.note(f"then: luthier annotate rate {found.name}")


@annotate.command("next")
@click.argument("queue")
def next_(session: Session, *, queue: str) -> None:
    """Show the next item for the caller of QUEUE."""
    from luthier.display import to_document

    resource = session.name("annotation_queue", queue)
    found = session.run(lambda client: client.annotation_queues.next_item(resource))
    if session.as_json:
        session.emit(to_document(found))
    elif found.HasField("item"):
        _show(found)
    else:
        session.note(f"nothing is left for you; you judged {found.judged_count:,} items")


@annotate.command()
@click.argument("queue")
@click.argument("item")
@click.argument("verdict", type=click.Choice([*CHOICES, *RATINGS]))
@click.option("--comment", default="", metavar="TEXT", help="Why.")
def vote(session: Session, *, queue: str, item: str, verdict: str, comment: str) -> None:
    """Say of ITEM which answer is better (left, right, tie), or how good it is (1 to 5)."""
    from luthier.display import to_document

    resource = session.name("annotation_queue", queue)
    options = _vote(verdict) | {"comment": comment}
    found = session.run(lambda client: client.annotation_queues.vote(resource, item, **options))
    if session.as_json:
        session.emit(to_document(found))


@annotate.command()
@click.argument("queue")
def rate(session: Session, *, queue: str) -> None:
    """Judge items of QUEUE one after the other; `q` stops, and the next time goes on."""
    if session.as_json:
        raise click.UsageError("rating is for people; programs use `next` and `vote`")
    resource = session.name("annotation_queue", queue)

    async def work(client: AsyncClient) -> int:
        import asyncio

        count = 0
        while (found := await client.annotation_queues.next_item(resource)).HasField("item"):
            _show(found)
            verdict = await asyncio.to_thread(_asked, found.item, click.prompt)
            if verdict is None:
                break
            await client.annotation_queues.vote(resource, found.item.item_id, **_vote(verdict))
            count += 1
        return count

    count = session.run(work)
    session.note(f"{count:,} votes recorded; thank you")


def _asked(item: AnnotationItem, prompt: Callable[..., Any]) -> str | None:
    """What the person types; None to stop."""
    if len(item.answers) == 1:
        typed = prompt("how good, 1 (useless) to 5 (perfect); q stops", type=click.Choice([*RATINGS, "q"]))
        return None if typed == "q" else str(typed)
    typed = prompt("which is better: 1, 2, or t for a tie; q stops", type=click.Choice(["1", "2", "t", "q"]))
    return {"1": "left", "2": "right", "t": "tie"}.get(str(typed))


def _vote(verdict: str) -> dict[str, Any]:
    from luthier.evaluator.v1.annotation_queue_pb2 import AnnotationChoice

    if verdict in RATINGS:
        return {"rating": int(verdict)}
    return {"choice": AnnotationChoice.Value(f"ANNOTATION_CHOICE_{verdict.upper()}")}


def _show(found: GetNextAnnotationItemResponse) -> None:
    item = found.item
    click.echo(f"\n--- {item.item_id}; {found.waiting_count:,} wait for you\n{item.question}")
    if item.reference:
        click.echo(f"\n[expected]\n{item.reference}")
    for number, answer in enumerate(item.answers, start=1):
        click.echo(f"\n[answer {number}]\n{answer}" if len(item.answers) > 1 else f"\n[answer]\n{answer}")


@annotate.command("list")
def list_(session: Session) -> None:
    """List the tenant's queues."""
    from luthier.display import arm_name, to_document, when

    async def work(client: AsyncClient) -> list[AnnotationQueue]:
        return [found async for found in client.annotation_queues.list(session.parent)]

    found = session.run(work)
    if session.as_json:
        session.emit({"annotation_queues": [to_document(one) for one in found]})
        return
    rows = [
        (one.name, one.evaluation, ", ".join(map(arm_name, one.arms)), one.item_count, when(one.create_time))
        for one in found
    ]
    session.table(["name", "evaluation", "arms", "#items", "created (UTC)"], rows)


@annotate.command()
@click.argument("queue")
def votes(session: Session, *, queue: str) -> None:
    """Print the votes of QUEUE as JSONL, with whose answers they were about."""
    from luthier.display import to_document

    resource = session.name("annotation_queue", queue)

    async def work(client: AsyncClient) -> list[Any]:
        return [vote async for vote in client.annotation_queues.list_votes(resource, page_size=500)]

    for found in session.run(work):
        session.emit(to_document(found))


@annotate.command()
@click.argument("queue")
@click.option("--judge", metavar="METRIC", default="", help="The evaluation's metric that stands for the judge.")
def summary(session: Session, *, queue: str, judge: str) -> None:
    """Say what the votes come to, how far raters and judge agree, and what they make of the judge's figures."""
    from luthier.display import to_document

    resource = session.name("annotation_queue", queue)
    found = session.run(lambda client: client.annotation_queues.summary(resource, judge_metric=judge))
    if session.as_json:
        session.emit(to_document(found))
        return
    _show_summary(session, found)


def _show_summary(session: Session, found: AnnotationSummary) -> None:
    from luthier.display import arm_name

    click.echo(
        f"{found.vote_count:,} votes of {found.rater_count:,} raters on {found.judged_item_count:,} of "
        f"{found.item_count:,} items; raters: alpha {found.rater_alpha:.2f}, kappa {found.rater_kappa:.2f}"
    )
    if found.judge_metric:
        click.echo(f"judge {found.judge_metric}: alpha {found.judge_alpha:.2f}, kappa {found.judge_kappa:.2f}")
    rows = []
    for figure in found.figures:
        of = arm_name(figure.arm) + (f" over {arm_name(figure.reference)}" if figure.reference else "")
        estimates = [_estimate(figure, name) for name in ("human", "judge", "corrected")]
        rows.append((of, *estimates, f"{figure.judge_weight:.2f}" if figure.HasField("corrected") else ""))
    session.table(["of", "#people", "#judge", "#judge, corrected by people", "#weight"], rows, title="[95 % interval]")


def _estimate(figure: Any, name: str) -> str:
    from luthier.display import interval

    if not figure.HasField(name):
        return ""
    found: Estimate = getattr(figure, name)
    return f"{interval(found.value, found.interval_low, found.interval_high)} ({found.item_count:,})"
