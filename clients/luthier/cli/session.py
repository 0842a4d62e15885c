"""One run of the command: its options, its profile, and where output goes.

The SDK and rich are imported when they are first used: `luthier --help` needs neither and takes a third of the time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

from luthier import names

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console

    from luthier.client import AsyncClient
    from luthier.profiles import Profile

T = TypeVar("T")
M = TypeVar("M", bound="Message")


@dataclass
class Session:
    """following: the job that the command waits for; if the command is interrupted, it prints how to get back to it."""

    as_json: bool = False
    tenant_option: str | None = None
    endpoint: str | None = None
    debug: bool = False
    following: str = ""

    @cached_property
    def profile(self) -> Profile:
        from luthier import profiles

        return profiles.resolve(endpoint=self.endpoint, tenant=self.tenant_option)

    @property
    def tenant(self) -> str:
        return self.profile.tenant

    @property
    def parent(self) -> str:
        """The tenant's resource name."""
        return names.tenant(self.tenant)

    def run(self, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Runs `work` with a client of the profile and closes the client."""
        from luthier.client import AsyncClient

        profile = self.profile

        async def with_client() -> T:
            async with AsyncClient(profile.endpoints, profile.token) as client:
                return await work(client)

        return asyncio.run(with_client())

    def read(self, source: Callable[[AsyncClient], AsyncIterator[T]]) -> list[T]:
        """Everything that `source` yields."""

        async def work(client: AsyncClient) -> list[T]:
            return [item async for item in source(client)]

        return self.run(work)

    def adopt(self, *typed: str | None) -> None:
        """Takes the tenant from the first full resource name among `typed`, unless --tenant was given."""
        for value in typed:
            if value and value.startswith("tenants/") and not self.tenant_option:
                self.tenant_option = value.split("/")[1]

    def name(self, kind: str, value: str) -> str:
        """A resource name from a full name, or from the id of one of the tenant's resources."""
        self.adopt(value)
        if "/" in value:
            return str(names.parse_as(value, kind))
        return names.base_model(value) if kind == "base_model" else names.build(kind, self.tenant, value)

    def emit(self, document: Mapping[str, Any] | Message, **more: Any) -> None:
        """Prints a JSON document, or a message as one, on one line; first the fields `more`."""
        if not isinstance(document, Mapping):
            from luthier.display import to_document

            document = to_document(document)
        click.echo(json.dumps(more | dict(document), ensure_ascii=False))

    def show(self, message: M, as_text: Callable[[M], object]) -> None:
        """Prints a message: as JSON with --json, else by `as_text`."""
        if self.as_json:
            self.emit(message)
        else:
            as_text(message)

    def show_list(
        self,
        field: str,
        source: Callable[[AsyncClient], AsyncIterator[M]],
        columns: Mapping[str, Callable[[M], object]],
        *,
        title: str = "",
    ) -> None:
        """Prints what `source` yields: with --json as the list `field` of one document, else as a table.

        columns: the cell of an item, by header.
        """
        found = self.read(source)
        if self.as_json:
            from luthier.display import to_document

            self.emit({field: [to_document(one) for one in found]})
        else:
            self.table(list(columns), ([cell(one) for cell in columns.values()] for one in found), title=title)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
        """Prints a table to stdout. A column whose header starts with `#` holds numbers: it is right-aligned."""
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", header_style="bold")
        for column in columns:
            numeric = column.startswith("#")
            table.add_column(column.removeprefix("#"), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        self.stdout.print(table)

    def note(self, text: str) -> None:
        """Prints a remark on stderr; silent with --json."""
        if not self.as_json:
            click.echo(text, err=True)

    @cached_property
    def stdout(self) -> Console:
        from rich.console import Console

        width = None if sys.stdout.isatty() else 160  # a pipe has no width: do not fold names at 80
        return Console(width=width, highlight=False, markup=False)

    @cached_property
    def stderr(self) -> Console:
        from rich.console import Console

        return Console(stderr=True, highlight=False, markup=False)


class Command(click.Command):
    """A command with the options that all commands share. Its callback gets the `Session` first."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params += common_options()

    def invoke(self, ctx: click.Context) -> Any:
        session = ctx.find_object(Session) or Session()
        apply_common(session, ctx.params)
        return ctx.invoke(self.callback, session, **ctx.params) if self.callback else None


class Group(click.Group):
    """A group whose commands are `Command`s."""

    command_class = Command


def common_options() -> list[click.Parameter]:
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON: one document, or one line per event."),
        click.Option(
            ["--tenant", "tenant_option"], metavar="T", help="The tenant. Default: LUTHIER_TENANT, then the profile."
        ),
        click.Option(
            ["--endpoint"],
            metavar="HOST[:PORT]",
            help="A remote installation. Default: LUTHIER_ENDPOINT, then the profile, then this machine.",
        ),
        click.Option(["--debug"], is_flag=True, help="Show the stack trace of an error."),
    ]


def apply_common(session: Session, params: dict[str, Any]) -> None:
    """Takes the common options out of `params`; an option given after the command beats one given before it."""
    session.as_json |= bool(params.pop("as_json", False))
    session.debug |= bool(params.pop("debug", False))
    session.tenant_option = params.pop("tenant_option", None) or session.tenant_option
    session.endpoint = params.pop("endpoint", None) or session.endpoint
