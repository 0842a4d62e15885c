"""How the evaluator's resources are deleted, and what in it refers to others.

The ledger of holdouts is no part of an evaluation: its accesses stay and keep counting.
"""

from __future__ import annotations

import sqlalchemy as sa

from luthierd.evaluator.decisions.gates import PolicyNotFoundError
from luthierd.evaluator.human_review.queues import QueueNotFoundError
from luthierd.evaluator.run.evaluations import EvaluationNotFoundError
from luthierd.evaluator.run.resolve_inputs import PromptNotFoundError
from luthierd.evaluator.suites.challenge_sets import ChallengeSetNotFoundError
from luthierd.names import ANNOTATION_QUEUE, CHALLENGE_SET, EVALUATION, GATE_POLICY, PROMPT
from luthierd.storage.deletions import Kind, job_kind
from luthierd.storage.references import JOBS, NAME, Referrers
from luthierd.storage.sweep import JOBS_NEED, RESULTS, Root

_answers = sa.table("evaluation_answers", sa.column("evaluation"))
_queues = sa.table("annotation_queues", sa.column("name"), sa.column("queue", sa.JSON))
_votes = sa.table("annotation_votes", sa.column("queue"))
_sets = sa.table("challenge_sets", *map(sa.column, ("name", "sha256")))
_policies = sa.table("gate_policies", sa.column("name"), sa.column("policy", sa.JSON))
_QUEUES = Referrers(table="annotation_queues", columns=["queue"])

REFERRERS = (JOBS, _QUEUES)

KINDS = (
    job_kind(
        EVALUATION,
        EvaluationNotFoundError,
        digest="result.answers_sha256",
        parts=lambda name: [_QUEUES.names(name)],
        also=lambda name: [sa.delete(_answers).where(_answers.c.evaluation == name)],
    ),
    job_kind(PROMPT, PromptNotFoundError),
    Kind(pattern=CHALLENGE_SET, missing=ChallengeSetNotFoundError, table=_sets, digest="sha256"),
    Kind(
        pattern=ANNOTATION_QUEUE,
        missing=QueueNotFoundError,
        table=_queues,
        digest="queue.items_sha256",
        also=lambda name: [sa.delete(_votes).where(_votes.c.queue == name)],
    ),
    Kind(pattern=GATE_POLICY, missing=PolicyNotFoundError, table=_policies, digest=""),
)

ROOTS = (
    JOBS_NEED,
    RESULTS,
    Root(table="annotation_queues", columns=["queue"], owner=NAME),
    Root(table="challenge_sets", columns=["sha256"], owner=NAME),
    Root(table="retention_suites", columns=["blob_sha256"], owner=sa.literal("retention suites", sa.Text)),
    Root(table="retrieval_indexes", columns=["blob_sha256"], owner=sa.literal("retrieval indexes", sa.Text)),
)

CACHES = ("judgements", "retrieval_indexes")
"""Tables of what can be made again."""
