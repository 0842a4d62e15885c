"""Answers, feedback, policies and captured texts, in SQL.

Texts are written in the transaction that reads the tenant's policy, so nothing is kept after an opt-out. A file's row
is written before its blob and deleted after it, so no blob is ever lost. Row locks are taken in one order: policy, then
texts, then files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.inference.domain.completion import ToolCall, Turn
from luthierd.inference.domain.errors import EtagMismatchError
from luthierd.inference.domain.feedback import (
    DEFAULT_RETENTION_S,
    Captured,
    CaptureFile,
    CapturePolicy,
    ExportFilter,
    Feedback,
    FileKind,
    Opinion,
    Rating,
    Response,
    Text,
)
from luthierd.paging import Page, PageRequest
from luthierd.storage.database import Database

WRITING, READY, OVERTAKEN, DOOMED = "writing", "ready", "overtaken", "doomed"
"""WRITING -> READY -> DOOMED -> gone; WRITING -> OVERTAKEN by an opt-out -> DOOMED, once nobody writes the blob."""
WRITE_LIMIT_S = 600.0
"""A file that is unfinished after this time was left behind by a server that died."""


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _table(name: str, columns: Sequence[str], **types: Any) -> sa.TableClause:
    return sa.table(name, *(sa.column(column, types.get(column)) for column in columns))


_responses = _table("responses", [*_names(Response), "capture_file"])
_response_columns = [_responses.c[name] for name in _names(Response)]
_texts = _table(
    "captured_texts", ["response_id", "tenant", "create_time", "character_count", "content"], content=sa.JSON
)
_feedback = _table(
    "feedback", ["response_id", "tenant", "create_time", "update_time", *_names(Opinion)], labels=sa.JSON
)
_policies = _table("capture_policies", _names(CapturePolicy), enabled=sa.Boolean)
_files = _table("capture_files", [*_names(CaptureFile), "state"])


class _OvertakenError(Exception):
    """A text was deleted or moved first; the transaction must be rolled back."""


class SqlCaptureStore:
    """Repeating a call that was interrupted has no further effect."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Policies

    async def policies(self) -> dict[str, CapturePolicy]:
        """Every policy that was ever changed, by tenant."""
        return {row["tenant"]: CapturePolicy(**row) for row in await self._database.rows(sa.select(_policies))}

    async def put_policy(self, policy: CapturePolicy) -> None:
        """EtagMismatchError unless the stored one is one change older. An opt-out deletes texts and dooms files."""
        async with self._database.begin() as connection:
            found = await _locked_policies(connection, [policy.tenant])
            before = found.get(policy.tenant, CapturePolicy(tenant=policy.tenant))
            if before.change != policy.change - 1:
                raise EtagMismatchError(name=f"tenants/{policy.tenant}/capturePolicy")
            await connection.execute(sa.delete(_policies).where(_policies.c.tenant == policy.tenant))
            await connection.execute(sa.insert(_policies).values(vars(policy)))
            if not policy.enabled:
                await connection.execute(sa.delete(_texts).where(_texts.c.tenant == policy.tenant))
                for state, next_state in ((READY, DOOMED), (WRITING, OVERTAKEN)):
                    these = sa.and_(_files.c.tenant == policy.tenant, _files.c.state == state)
                    await connection.execute(sa.update(_files).where(these).values(state=next_state))

    # Answers

    async def add(self, answers: Sequence[Captured]) -> int:
        """Stores answers, and texts whose tenants allowed it all the time since; the number of texts stored."""
        tenants = sorted({one.response.tenant for one in answers if one.text is not None})
        async with self._database.begin() as connection:
            policies = await _locked_policies(connection, tenants)
            ids = [one.response.response_id for one in answers]
            query = sa.select(_responses.c.response_id).where(_responses.c.response_id.in_(ids))
            known = set((await connection.execute(query)).scalars())
            answers = [one for one in answers if one.response.response_id not in known]
            if answers:
                rows = [{**vars(one.response), "capture_file": ""} for one in answers]
                await connection.execute(sa.insert(_responses), rows)
            texts = [
                _text_row(one.response, one.text)
                for one in answers
                if one.text is not None and _allows(policies.get(one.response.tenant), one.response)
            ]
            if texts:
                await connection.execute(sa.insert(_texts), texts)
        return len(texts)

    async def response(self, tenant: str, response_id: str, *, since: float) -> Response | None:
        """The tenant's answer of that id, if it ended after `since`."""
        query = sa.select(*_response_columns).where(
            _responses.c.response_id == response_id, _responses.c.tenant == tenant, _responses.c.create_time >= since
        )
        return next((Response(**row) for row in await self._database.rows(query)), None)

    # Texts that wait for their file

    async def waiting_tenants(self) -> Mapping[str, tuple[int, int, float]]:
        """By tenant, the texts that are in no file: their number, characters, and the time of the oldest."""
        query = sa.select(
            _texts.c.tenant,
            sa.func.count().label("count"),
            sa.func.sum(_texts.c.character_count).label("characters"),
            sa.func.min(_texts.c.create_time).label("oldest"),
        ).group_by(_texts.c.tenant)
        rows = await self._database.rows(query)
        return {row["tenant"]: (int(row["count"]), int(row["characters"]), float(row["oldest"])) for row in rows}

    async def waiting(self, tenant: str, *, limit: int) -> list[Captured]:
        query = (
            sa.select(*_response_columns, _texts.c.content)
            .join_from(_texts, _responses, _texts.c.response_id == _responses.c.response_id)
            .where(_texts.c.tenant == tenant)
            .order_by(_texts.c.create_time, _texts.c.response_id)
            .limit(limit)
        )
        rows = await self._database.rows(query)
        return [Captured(_response(row), _text_from_json(row["content"])) for row in rows]

    async def texts(self, response_ids: Sequence[str]) -> dict[str, Text]:
        """The texts among these that are in no file yet."""
        query = sa.select(_texts.c.response_id, _texts.c.content).where(_texts.c.response_id.in_(response_ids))
        return {row["response_id"]: _text_from_json(row["content"]) for row in await self._database.rows(query)}

    # Files

    async def begin_file(self, file: CaptureFile) -> None:
        """Stores a file's row before its blob is written."""
        values = {**vars(file), "kind": file.kind.value, "state": WRITING}
        await self._database.execute(sa.insert(_files).values(values))

    async def end_part(self, file: CaptureFile, response_ids: Sequence[str]) -> bool:
        """Moves these texts to the file. False, and the file is doomed, if one of them is gone by now."""
        try:
            async with self._database.begin() as connection:
                await _locked_policies(connection, [file.tenant])
                ids = _texts.c.response_id.in_(response_ids)
                moved = await connection.execute(sa.delete(_texts).where(ids))
                if moved.rowcount != len(response_ids):
                    raise _OvertakenError
                if (await connection.execute(_published(file.name))).rowcount != 1:
                    raise _OvertakenError
                of_these = _responses.c.response_id.in_(response_ids)
                await connection.execute(sa.update(_responses).where(of_these).values(capture_file=file.name))
        except _OvertakenError:
            await self._doom(file.name)
            return False
        return True

    async def end_export(self, file: CaptureFile) -> bool:
        """Publishes an export. False, and the file is doomed, if an opt-out came while it was written."""
        is_published = await self._database.execute(_published(file.name)) == 1
        if not is_published:
            await self._doom(file.name)
        return is_published

    async def doom_ready(self, name: str) -> bool:
        """Dooms a finished file. False if there is none."""
        is_ready = sa.and_(_files.c.name == name, _files.c.state == READY)
        return await self._database.execute(sa.update(_files).where(is_ready).values(state=DOOMED)) == 1

    async def _doom(self, name: str) -> None:
        await self._database.execute(sa.update(_files).where(_files.c.name == name).values(state=DOOMED))

    async def file(self, name: str) -> CaptureFile | None:
        """A finished file."""
        query = sa.select(_files).where(_files.c.name == name, _files.c.state == READY)
        return next((_file(row) for row in await self._database.rows(query)), None)

    async def files(self, tenant: str, kind: FileKind | None, page: PageRequest) -> Page[CaptureFile]:
        """A page of the tenant's finished files, by name."""
        query = sa.select(_files).where(_files.c.tenant == tenant, _files.c.state == READY, _files.c.name > page.after)
        if kind is not None:
            query = query.where(_files.c.kind == kind.value)
        rows = await self._database.rows(query.order_by(_files.c.name).limit(page.limit))
        found = [_file(row) for row in rows]
        return page.page(found, [file.name for file in found])

    async def expire(self, now: float, *, response_retention_s: float) -> None:
        """Deletes expired rows, and dooms expired and unfinished files."""
        policies = await self.policies()
        tenants = sa.union(*(sa.select(table.c.tenant).distinct() for table in (_texts, _feedback, _files)))
        oldest = sa.case((_files.c.row_count > 0, _files.c.oldest_time), else_=_files.c.create_time)
        async with self._database.begin() as connection:
            for tenant in (await connection.execute(tenants)).scalars().all():
                policy = policies.get(tenant)
                too_old = now - (policy.retention_s if policy else DEFAULT_RETENTION_S)
                for table in (_texts, _feedback):
                    is_expired = sa.and_(table.c.tenant == tenant, table.c.create_time <= too_old)
                    await connection.execute(sa.delete(table).where(is_expired))
                expired = sa.and_(_files.c.tenant == tenant, _files.c.state == READY, oldest <= too_old)
                await connection.execute(sa.update(_files).where(expired).values(state=DOOMED))
            is_open = _files.c.state.in_((WRITING, OVERTAKEN))
            abandoned = sa.and_(is_open, _files.c.create_time <= now - WRITE_LIMIT_S)
            await connection.execute(sa.update(_files).where(abandoned).values(state=DOOMED))
            unneeded = sa.and_(
                _responses.c.create_time <= now - response_retention_s,
                ~sa.exists().where(_feedback.c.response_id == _responses.c.response_id),
                ~sa.exists().where(_texts.c.response_id == _responses.c.response_id),
            )
            await connection.execute(sa.delete(_responses).where(unneeded))

    async def doomed(self) -> list[CaptureFile]:
        query = sa.select(_files).where(_files.c.state == DOOMED)
        return [_file(row) for row in await self._database.rows(query)]

    async def forget_file(self, name: str) -> None:
        """Deletes the row of a file whose blob is gone."""
        await self._database.execute(
            sa.update(_responses).where(_responses.c.capture_file == name).values(capture_file=""),
            sa.delete(_files).where(_files.c.name == name),
        )

    # Feedback

    async def put_feedback(self, response: Response, opinion: Opinion, now: float) -> Feedback:
        """Stores the opinion, in place of an earlier one."""
        async with self._database.begin() as connection:
            query = sa.select(_feedback.c.create_time).where(_feedback.c.response_id == response.response_id)
            create_time = (await connection.execute(query.with_for_update())).scalar_one_or_none()
            await connection.execute(sa.delete(_feedback).where(_feedback.c.response_id == response.response_id))
            kept = Feedback(response=response, opinion=opinion, create_time=create_time or now, update_time=now)
            values = {
                "response_id": response.response_id,
                "tenant": response.tenant,
                "create_time": kept.create_time,
                "update_time": now,
                **vars(opinion),
                "rating": opinion.rating.value,
            }
            await connection.execute(sa.insert(_feedback).values(values))
        return kept

    async def feedback(self, tenant: str, only: ExportFilter, *, limit: int) -> list[tuple[Feedback, str]]:
        """The tenant's feedback with the file that holds each answer's text, if any; by file, then by time."""
        said = [_feedback.c[name] for name in ("update_time", *_names(Opinion))]
        query = (
            sa.select(_responses, _feedback.c.create_time.label("said_time"), *said)
            .join_from(_feedback, _responses, _feedback.c.response_id == _responses.c.response_id)
            .where(_feedback.c.tenant == tenant)
            .order_by(_responses.c.capture_file, _responses.c.create_time, _responses.c.response_id)
            .limit(limit)
        )
        if only.deployment:
            query = query.where(_responses.c.target == only.deployment)
        if only.rating is not Rating.UNSPECIFIED:
            query = query.where(_feedback.c.rating == only.rating.value)
        return [(_said(row), row["capture_file"]) for row in await self._database.rows(query)]


async def _locked_policies(connection: AsyncConnection, tenants: Sequence[str]) -> dict[str, CapturePolicy]:
    """The policies, locked until the transaction ends. (SQLite has one writer at a time anyway.)"""
    if not tenants:
        return {}
    query = sa.select(_policies).where(_policies.c.tenant.in_(tenants)).order_by(_policies.c.tenant)
    rows = (await connection.execute(query.with_for_update())).mappings().all()
    return {row["tenant"]: CapturePolicy(**row) for row in rows}


def _published(name: str) -> sa.Update:
    return sa.update(_files).where(_files.c.name == name, _files.c.state == WRITING).values(state=READY)


def _allows(policy: CapturePolicy | None, response: Response) -> bool:
    """Whether the tenant's capture has been on since the answer ended."""
    return policy is not None and policy.enabled and policy.enabled_time <= response.create_time


def _text_row(response: Response, text: Text) -> dict[str, Any]:
    messages = [
        [turn.role, turn.content, turn.name, list(turn.tool_calls), turn.tool_call_id] for turn in text.messages
    ]
    return {
        "response_id": response.response_id,
        "tenant": response.tenant,
        "create_time": response.create_time,
        "character_count": text.character_count,
        "content": {"messages": messages, "completion": text.completion},
    }


def _text_from_json(content: Any) -> Text:
    return Text(tuple(_turn(*stored) for stored in content["messages"]), content["completion"])


def _turn(role: str, content: str, name: str = "", calls: Sequence[Sequence[str]] = (), tool_call_id: str = "") -> Turn:
    return Turn(role, content, name, tuple(ToolCall(*call) for call in calls), tool_call_id)


def _response(row: sa.RowMapping) -> Response:
    return Response(**{name: row[name] for name in _names(Response)})


def _file(row: sa.RowMapping) -> CaptureFile:
    return CaptureFile(**{name: row[name] for name in _names(CaptureFile)} | {"kind": FileKind(row["kind"])})


def _said(row: sa.RowMapping) -> Feedback:
    opinion = Opinion(rating=Rating(row["rating"]), correction=row["correction"], labels=tuple(row["labels"]))
    return Feedback(
        response=_response(row), opinion=opinion, create_time=row["said_time"], update_time=row["update_time"]
    )
