"""luthier generate | chat: answers, as they are made, on stdout."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from luthier.cli.session import Command, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient

F = TypeVar("F", bound=Callable[..., Any])


def answering(function: F) -> F:
    """Options of whoever answers and how."""
    for option in reversed(
        (
            click.option("--deployment", metavar="NAME", help="A deployment of the tenant."),
            click.option("--base", metavar="M", help="A base model without any adapter."),
            click.option("--adapter", metavar="REVISION", help="An adapter revision that need not be deployed."),
            click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens to make. Default 256."),
            click.option("--temperature", type=click.FloatRange(min=0), help="0 is greedy. Default 0."),
            click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), help="Nucleus. Default 1."),
            click.option("--seed", type=int, help="Seed for temperatures above 0."),
            click.option("--stop", multiple=True, help="Text that ends the answer; may be repeated."),
        )
    ):
        function = option(function)
    return function


@click.command(cls=Command)
@click.argument("prompt", required=False)
@answering
def generate(session: Session, *, prompt: str | None, **options: Any) -> None:
    """Continue PROMPT (or what stdin holds) as it is, without a chat template."""
    text = _input(prompt)
    session.adopt(options["deployment"], options["adapter"])

    async def work(client: AsyncClient) -> dict[str, Any]:
        target = await _target(client, session, options)
        return await _print(session, client.inference.generate_stream(target, text, **options))

    _finish(session, session.run(work))


@click.command(cls=Command)
@click.argument("message", required=False)
@click.option("--system", metavar="TEXT", help="The system message.")
@answering
def chat(session: Session, *, message: str | None, system: str | None, **options: Any) -> None:
    """Answer MESSAGE (or what stdin holds); on a terminal without MESSAGE, hold a conversation."""
    session.adopt(options["deployment"], options["adapter"])
    opening = [{"role": "system", "content": system}] if system else []
    if message is None and sys.stdin.isatty() and not session.as_json:
        _converse(session, opening, options)
        return
    turns = [*opening, {"role": "user", "content": _input(message)}]

    async def work(client: AsyncClient) -> dict[str, Any]:
        target = await _target(client, session, options)
        return await _print(session, client.inference.chat_stream(target, turns, **options))

    _finish(session, session.run(work))


def _converse(session: Session, turns: list[dict[str, str]], options: dict[str, Any]) -> None:
    """Turn by turn until the end of input. Reads between runs of the loop, so that Ctrl-C ends it at once."""
    import asyncio

    from luthier.client import AsyncClient

    with asyncio.Runner() as runner:
        client = AsyncClient(session.profile.endpoints, session.profile.token)
        try:
            target = runner.run(_target(client, session, options))
            session.note(f"{target}; an empty line or Ctrl-D ends")
            while said := _line():
                turns.append({"role": "user", "content": said})
                answer = runner.run(_print(session, client.inference.chat_stream(target, turns, **options)))
                turns.append({"role": "assistant", "content": answer["text"]})
        finally:
            runner.run(client.close())


def _line() -> str:
    """What the person says next; empty at the end."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""


async def _target(client: AsyncClient, session: Session, options: dict[str, Any]) -> str:
    """Takes the target out of `options`; exactly one must be named."""
    from luthier.cli.adapters import latest_revision

    deployment, base, adapter = (options.pop(key) for key in ("deployment", "base", "adapter"))
    if sum(value is not None for value in (deployment, base, adapter)) != 1:
        raise click.UsageError("name exactly one of --deployment, --base and --adapter")
    if adapter is not None:
        return await latest_revision(client, session, adapter)
    return session.name("deployment", deployment) if deployment is not None else session.name("base_model", base)


def _input(given: str | None) -> str:
    if given is not None and given != "-":
        return given
    if sys.stdin.isatty():
        raise click.UsageError("there is nothing to answer: give a text, or pipe one in")
    return sys.stdin.read()


async def _print(session: Session, stream: AsyncIterator[Any]) -> dict[str, Any]:
    """Prints the pieces as they come; returns text, finish and origin."""
    from luthier.cli.documents import to_document

    text: list[str] = []
    answer: dict[str, Any] = {}
    async for message in stream:
        if message.delta:
            text.append(message.delta)
            if session.as_json:
                session.emit({"event": "delta", "delta": message.delta})
            else:
                click.echo(message.delta, nl=False)
                sys.stdout.flush()
        for part in ("finish", "origin"):
            if message.HasField(part):
                answer[part] = to_document(getattr(message, part))
    if not session.as_json:
        click.echo()
    return {"text": "".join(text)} | answer


def _finish(session: Session, answer: dict[str, Any]) -> None:
    if session.as_json:
        session.emit({"event": "result"} | answer)
        return
    finish, origin = answer.get("finish", {}), answer.get("origin", {})
    if finish and sys.stderr.isatty():
        who = origin.get("adapter_revision") or origin.get("base_model")
        session.note(
            f"[{who}: {finish['completion_token_count']} tokens, "
            f"first after {finish['ttft_ms']:.0f} ms, all after {finish['latency_ms']:.0f} ms]"
        )
