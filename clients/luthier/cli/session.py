"""What one run of the command knows: its options, the profile, and where output goes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.client import AsyncClient
    from luthier.profiles import Profile

T = TypeVar("T")


@dataclass
class Session:
    """following: the job that the command waits for; if it is interrupted, the way back to it is printed."""

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
        return f"tenants/{self.tenant}"

    def run(self, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Runs `work` with a client of the profile and closes the client."""
        from luthier.client import AsyncClient

        profile = self.profile

        async def with_client() -> T:
            async with AsyncClient(profile.endpoints, profile.token) as client:
                return await work(client)

        return asyncio.run(with_client())

    def adopt(self, *typed: str | None) -> None:
        """Takes the tenant from the first whole resource name among `typed`, unless --tenant was given.

        So a name that another command printed works as it is.
        """
        for value in typed:
            if value and value.startswith("tenants/") and not self.tenant_option:
                self.tenant_option = value.split("/")[1]

    def name(self, kind: str, value: str) -> str:
        """A resource name from what was typed: a whole name, or an id of the tenant's."""
        from luthier import names

        self.adopt(value)
        if "/" in value:
            return str(names.parse_as(value, kind))
        return names.base_model(value) if kind == "base_model" else names.build(kind, self.tenant, value)

    def emit(self, document: Mapping[str, Any]) -> None:
        """Prints one JSON document on one line."""
        click.echo(json.dumps(document, ensure_ascii=False))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
        """Prints a table to stdout."""
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", header_style="bold")
        for column in columns:
            numeric = column.startswith("#")
            table.add_column(column.removeprefix("#"), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        self.stdout.print(table)

    def note(self, text: str) -> None:
        """Says something to the person on stderr; silent with --json."""
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
    """A command with the options that every command takes. Its callback gets the `Session` first."""

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
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON: one document, or a line for each event."),
        click.Option(["--tenant", "tenant_option"], metavar="T", help="The tenant; else LUTHIER_TENANT, the profile."),
        click.Option(
            ["--endpoint"], metavar="HOST[:PORT]", help="A remote installation; else the profile, this machine."
        ),
        click.Option(["--debug"], is_flag=True, help="Show the trace of an error."),
    ]


def apply_common(session: Session, params: dict[str, Any]) -> None:
    """Takes the common options out of `params`; what is given nearest to the command wins."""
    session.as_json |= bool(params.pop("as_json", False))
    session.debug |= bool(params.pop("debug", False))
    session.tenant_option = params.pop("tenant_option", None) or session.tenant_option
    session.endpoint = params.pop("endpoint", None) or session.endpoint
