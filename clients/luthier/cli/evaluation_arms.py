"""What `luthier evaluate` can name beside the adapter: documents, further answerers; and how retrieval is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from luthier.cli.session import Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.evaluator.v1.evaluation_pb2 import Evaluation, EvaluationConfig

DEFAULT_ARMS = ("base", "prompted", "rag", "adapter", "adapter_rag")
# The arm that each option brings along.
ARM_OF_OPTION = {"challenger": "challenger", "raft_adapter": "adapter_raft", "model_endpoint": "endpoint"}
ARMS_HELP = f"Ways to answer. Default {','.join(DEFAULT_ARMS)}, and {', '.join(ARM_OF_OPTION.values())} where named."

F = TypeVar("F", bound=Callable[..., Any])


def naming_options(command: F) -> F:
    """Adds the options; the command takes them as keywords and passes them to `named_in`."""
    for option in (
        click.option("--model-endpoint", metavar="NAME[/MODEL]", help="Also ask an endpoint of the server's list."),
        click.option("--raft-adapter", metavar="REVISION", help="Also ask an adapter that was trained for retrieval."),
        click.option("--challenger", metavar="REVISION", help="Also ask another adapter revision."),
        click.option("--documents", metavar="REVISION", help="Retrieve from this dataset revision's rows instead."),
    ):
        command = option(command)
    return command


async def named_in(
    client: AsyncClient, session: Session, config: EvaluationConfig, given: Mapping[str, str | None]
) -> None:
    """Writes what the options name into `config`, and adds their arms where the arms are not named."""
    from luthier.cli.adapters import latest_revision
    from luthier.cli.datasets import latest_revision as latest_dataset_revision
    from luthier.cli.datasets import revision_name
    from luthier.evaluator.v1.evaluation_pb2 import Arm, EndpointTarget

    if documents := given["documents"]:
        config.passages = await latest_dataset_revision(client, revision_name(session, documents))
    if challenger := given["challenger"]:
        config.challenger_revision = await latest_revision(client, session, challenger)
    if raft_adapter := given["raft_adapter"]:
        config.raft_adapter_revision = await latest_revision(client, session, raft_adapter)
    if endpoint := given["model_endpoint"]:
        name, _, model = endpoint.partition("/")
        config.endpoint.CopyFrom(EndpointTarget(endpoint=name, model=model))
    further = [arm for option, arm in ARM_OF_OPTION.items() if given[option]]
    if further and not config.arms:
        config.arms.extend(Arm.Value(f"ARM_{arm.upper()}") for arm in (*DEFAULT_ARMS, *further))


def show_retrieval(session: Session, evaluation: Evaluation) -> None:
    """Every retriever's figures, the one that was used marked; nothing without retrieval."""
    from luthier.display import interval, to_document

    if not evaluation.HasField("retrieval"):
        return
    found = evaluation.retrieval
    plain = to_document(found)
    metrics = [value.metric for value in found.retrievers[0].metrics] if found.retrievers else []
    session.table(
        ["retriever", *(f"#{metric}" for metric in metrics), "used"],
        [
            (
                shown["retriever"].lower(),
                *(interval(value.mean, value.interval_low, value.interval_high) for value in result.metrics),
                "yes" if result.retriever == found.chosen else "",
            )
            for result, shown in zip(found.retrievers, plain["retrievers"], strict=True)
        ],
        title="retrieval [95 % interval]",
    )
    click.echo(
        f"judged on {found.judged_row_count} of {found.row_count} {found.judged_on} rows; "
        f"relevant: {found.relevance.replace('_', ' ')}"
    )
