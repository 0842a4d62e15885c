"""luthier generate | chat | batch | score: answers, streamed to stdout; log-probabilities of given answers."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, TextIO, TypeVar

import click

from luthier.cli.revisions import adapter_revision
from luthier.cli.session import Command, Session
from luthier.client import AsyncClient
from luthier.display import to_document

BATCH_SIZE = 64
"""The service's limit on the inputs of a batch."""

F = TypeVar("F", bound=Callable[..., Any])


def _all_of(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """One decorator that adds all options, in this order."""
    return lambda function: functools.reduce(lambda decorated, option: option(decorated), reversed(options), function)


targeted = _all_of(
    click.option("--deployment", metavar="NAME", help="A deployment of the tenant."),
    click.option("--base", metavar="M", help="A base model without any adapter."),
    click.option("--adapter", metavar="REVISION", help="An adapter revision, deployed or not."),
    click.option("--session", "session_id", default="", help="Keeps a conversation on one loaded adapter."),
)
answering = _all_of(
    targeted,
    click.option("--max-tokens", type=click.IntRange(min=1), help="Maximum tokens to generate. Default 256."),
    click.option("--temperature", type=click.FloatRange(min=0), help="0 is greedy. Default 0."),
    click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), help="Nucleus sampling. Default 1."),
    click.option("--seed", type=int, help="Seed for temperatures above 0."),
    click.option("--stop", multiple=True, help="Text that ends the answer; may be repeated."),
    click.option("--top-k", type=click.IntRange(min=0), help="Sample from the K likeliest tokens."),
    click.option("--json-schema", type=click.File(), help="The answer must be JSON that this schema allows."),
    click.option("--regex", metavar="R", help="The whole answer must match this regular expression."),
    click.option("--grammar", type=click.File(), help="The answer must follow this grammar (GBNF or Lark)."),
    click.option("--choice", "choices", multiple=True, help="The answer must be one of these; may be repeated."),
)


@click.command(cls=Command)
@click.argument("prompt", required=False)
@answering
def generate(session: Session, *, prompt: str | None, **options: Any) -> None:
    """Continue PROMPT (or stdin) as it is, without a chat template."""
    text = _input(prompt)
    _read_structure(options)
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
    """Answer MESSAGE (or stdin); on a terminal without MESSAGE, start a conversation."""
    session.adopt(options["deployment"], options["adapter"])
    _read_structure(options)
    opening = [{"role": "system", "content": system}] if system else []
    if message is None and sys.stdin.isatty() and not session.as_json:
        _converse(session, opening, options)
        return
    turns = [*opening, {"role": "user", "content": _input(message)}]

    async def work(client: AsyncClient) -> dict[str, Any]:
        target = await _target(client, session, options)
        return await _print(session, client.inference.chat_stream(target, turns, **options))

    _finish(session, session.run(work))


@click.command(cls=Command)
@click.argument("file", type=click.File())
@answering
def batch(session: Session, *, file: TextIO, **options: Any) -> None:
    """Answer every line of FILE (JSONL: `{"prompt": ...}` or `{"messages": [...]}`), 64 at a time, in order.

    One loaded adapter answers each batch of 64. Prints one JSON line per answer.
    """
    session.adopt(options["deployment"], options["adapter"])
    _read_structure(options)
    inputs = [_line_input(line, number) for number, line in enumerate(file, start=1) if line.strip()]
    if not inputs:
        raise click.UsageError("the file has no lines")

    async def work(client: AsyncClient) -> int:
        target, failure_count = await _target(client, session, options), 0
        for start in range(0, len(inputs), BATCH_SIZE):
            answered = await client.inference.batch_generate(target, inputs[start : start + BATCH_SIZE], **options)
            for result in answered.results:
                session.emit(result)
                failure_count += result.HasField("error")
        return failure_count

    failures = session.run(work)
    session.note(f"{len(inputs) - failures} of {len(inputs)} answered")


def _line_input(line: str, number: int) -> str | list[dict[str, Any]]:
    """A text, or the turns of a conversation."""
    try:
        row = json.loads(line)
        return str(row["prompt"]) if "prompt" in row else [dict(turn) for turn in row["messages"]]
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f'line {number} is neither {{"prompt": ...}} nor {{"messages": [...]}}') from error


@click.command(cls=Command)
@click.argument("prompt")
@click.argument("completion")
@click.option("--chat", "is_chat", is_flag=True, help="PROMPT is a user message: apply the chat template.")
@targeted
def score(session: Session, *, prompt: str, completion: str, is_chat: bool, **options: Any) -> None:
    """Show the log-probability of each token of COMPLETION after PROMPT, in nats."""
    session.adopt(options["deployment"], options["adapter"])

    async def work(client: AsyncClient) -> Any:
        target = await _target(client, session, options)
        before: Any = [{"role": "user", "content": prompt}] if is_chat else prompt
        return await client.inference.score(target, before, completion, **options)

    scored = session.run(work)
    if session.as_json:
        session.emit(scored)
        return
    session.table(["token", "#log-probability"], [(repr(one.text), f"{one.logprob:.3f}") for one in scored.tokens])
    click.echo(f"total {scored.total_logprob:.3f}")


def _read_structure(options: dict[str, Any]) -> None:
    """Replaces files by their texts and an empty tuple of choices by None. At most one option may be given."""
    for name in ("json_schema", "grammar"):
        if options[name] is not None:
            options[name] = options[name].read()
    options["choices"] = options["choices"] or None
    given = [name for name in ("json_schema", "regex", "grammar", "choices") if options[name] is not None]
    if len(given) > 1:
        raise click.UsageError("name at most one of --json-schema, --regex, --grammar and --choice")


def _converse(session: Session, turns: list[dict[str, str]], options: dict[str, Any]) -> None:
    """Turn by turn until the end of input. Reads between runs of the loop, so that Ctrl-C ends it immediately."""
    with asyncio.Runner() as runner:
        client = AsyncClient(session.profile.endpoints, session.profile.token)
        try:
            target = runner.run(_target(client, session, options))
            session.note(f"{target}; an empty line or Ctrl-D ends")
            while typed := _line():
                turns.append({"role": "user", "content": typed})
                answer = runner.run(_print(session, client.inference.chat_stream(target, turns, **options)))
                turns.append({"role": "assistant", "content": answer["text"]})
        finally:
            runner.run(client.close())


def _line() -> str:
    """The next line; empty at the end."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""


async def _target(client: AsyncClient, session: Session, options: dict[str, Any]) -> str:
    """Takes the target out of `options`; exactly one must be given."""
    deployment, base, adapter = (options.pop(key) for key in ("deployment", "base", "adapter"))
    if sum(value is not None for value in (deployment, base, adapter)) != 1:
        raise click.UsageError("name exactly one of --deployment, --base and --adapter")
    if adapter is not None:
        return await adapter_revision(client, session, adapter)
    return session.name("deployment", deployment) if deployment is not None else session.name("base_model", base)


def _input(given: str | None) -> str:
    if given is not None and given != "-":
        return given
    if sys.stdin.isatty():
        raise click.UsageError("there is nothing to answer: give a text, or pipe one in")
    return sys.stdin.read()


async def _print(session: Session, stream: AsyncIterator[Any]) -> dict[str, Any]:
    """Prints the answer as it streams; returns text, finish and origin."""
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
        session.emit(answer, event="result")
        return
    finish, origin = answer.get("finish", {}), answer.get("origin", {})
    if finish and sys.stderr.isatty():
        who = origin.get("adapter_revision") or origin.get("base_model")
        session.note(
            f"[{who}: {finish['completion_token_count']} tokens, "
            f"first after {finish['ttft_ms']:.0f} ms, all after {finish['latency_ms']:.0f} ms]"
        )
