"""The root of the command line: the table of commands, the messages of errors, the exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import click

from luthier.cli import exits
from luthier.cli.session import Session, apply_common, common_options
from luthier.errors import LuthierError, RpcError

COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("installation", "up", "Start the four services on this machine."),
    "down": ("installation", "down", "Stop them; jobs continue after the next `up`."),
    "status": ("installation", "status", "Show what runs and whether it serves."),
    "doctor": ("doctor", "doctor", "Check this machine and the installation, with advice."),
    "storage": ("storage", "storage", "What holds the disk, and what a sweep frees."),
    "model": ("models", "model", "Base models: import, list, delete."),
    "dataset": ("datasets", "dataset", "Datasets: import, curate, show, list, export, delete."),
    "train": ("training", "train", "Train an adapter on a dataset revision."),
    "adapters": ("adapters", "adapters", "Adapters and their revisions: list, delete."),
    "jobs": ("jobs", "jobs", "Training jobs, evaluations and curations: list, watch, cancel, delete."),
    "evaluate": ("evaluations", "evaluate", "Compare an adapter with the base model, prompting and retrieval."),
    "annotate": ("annotation", "annotate", "Blind annotation of answers by people: create, rate, summary, ..."),
    "challenge": ("challenge", "challenge", "Challenge cases of a task: generate, upload, list, show, delete."),
    "prompt": ("prompts", "prompt", "Prompts: optimise on the validation split, show, list, cancel, delete."),
    "import-eval": ("eval_imports", "import_eval", "Convert an OpenAI or promptfoo evaluation."),
    "gate": ("gates", "gate", "Judge an evaluation by a policy: GO (0), NO-GO (1), INCONCLUSIVE (2); plan, selftest."),
    "verdict": ("verdicts", "verdict", "Recommend a way of answering: base, prompt, retrieval, tuning."),
    "compare": ("verdicts", "compare", "Compare two evaluations, and list what else differs between them."),
    "holdout": ("holdouts", "holdout", "How often a holdout was used, and by whom: show, ledger."),
    "engine": ("engine", "engine", "The engine's base model: use, show."),
    "deploy": ("deployments", "deploy", "Make an adapter revision live, while requests run."),
    "promote": ("deployments", "promote", "Make a staged revision live."),
    "rollback": ("deployments", "rollback", "Make the previous revision live again."),
    "traffic": ("traffic", "traffic", "Traffic shares of a deployment's revisions, and its mirror: set, show."),
    "pin": ("deployments", "pin", "Keep a deployment's adapters in memory."),
    "unpin": ("deployments", "unpin", "Allow them to be evicted."),
    "prefetch": ("deployments", "prefetch", "Load a deployment's adapters before the first request."),
    "undeploy": ("deployments", "undeploy", "Remove a deployment."),
    "deployments": ("deployments", "deployments", "List deployments."),
    "generate": ("inference", "generate", "Continue a text."),
    "chat": ("inference", "chat", "Answer a message, or start a conversation."),
    "feedback": ("feedback", "feedback", "Feedback of users on answers: record, export."),
    "capture": ("captures", "capture", "Whether prompts and answers are stored: show, set, list, delete."),
    "quota": ("quotas", "quota", "A tenant's limits in the inference service: show, list, set."),
    "batch": ("inference", "batch", "Answer every line of a file."),
    "score": ("inference", "score", "Show the log-probabilities of a completion."),
    "auth": ("auth", "auth", "Tokens and keys: issue, revoke, rotate."),
}
"""Command: (module below luthier.cli, attribute, line of the help), in the order in which they are used."""


class Root(click.Group):
    """Imports a command's module when the command is used, so that the help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"luthier.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see `luthier --help`"
            raise click.UsageError(f"there is no command '{args[0]}'; {hint}", ctx=ctx)
        return super().resolve_command(ctx, args)


@click.command(
    cls=Root,
    params=common_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 done, 1 NO-GO or failed, 2 INCONCLUSIVE, 64 usage, 65 refused, 69 unavailable, 70 defect, "
    "74 file, 77 denied, 130 interrupted.",
)
@click.version_option(package_name="luthier", message="luthier %(version)s")
@click.pass_context
def root(ctx: click.Context, /, **options: Any) -> None:
    """Curate, train, evaluate and serve one LoRA adapter for each tenant."""
    ctx.obj = ctx.obj or Session()
    apply_common(ctx.obj, dict(options))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the `luthier` command."""
    raise SystemExit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs a command line; returns its exit code and raises nothing."""
    session = Session()
    try:
        outcome = root.main(args=list(arguments), prog_name="luthier", standalone_mode=False, obj=session)
        return outcome if isinstance(outcome, int) else exits.OK
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return exits.USAGE
    except click.ClickException as error:
        session.as_json |= "--json" in arguments  # the arguments may not have been parsed
        return _usage_failed(session, error)
    except LuthierError as error:
        return _call_failed(session, error)
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(session)
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # the reader is gone: keep the interpreter's final flush quiet
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.OK
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _fail(session, exits.IO, message, reason="FILE", error=error)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        if not session.as_json:
            message = f"a defect of the luthier command: {message}\n  run it again with --debug for the stack trace"
        return _fail(session, exits.INTERNAL, message, reason="DEFECT", error=error)


def _fail(
    session: Session,
    exit_code: int,
    message: str,
    *,
    reason: str,
    error: Exception | None = None,
    hints: Sequence[str] = (),
    **more: Any,
) -> int:
    """Prints an error, as JSON with the fields `more` or as text with a line per hint; returns the exit code."""
    if session.as_json:
        document: dict[str, Any] = {"event": "error", "reason": reason, "message": message, "code": "", "metadata": {}}
        session.emit(document | more)
    else:
        click.echo(f"error: {message}", err=True)
        for hint in hints:
            click.echo(f"  {hint}", err=True)
    if session.debug and error is not None:
        traceback.print_exception(error, file=sys.stderr)
    return exit_code


def _call_failed(session: Session, error: LuthierError) -> int:
    code = exits.code_of(error)
    rpc_error = error if isinstance(error, RpcError) else RpcError(error.message)
    violations = rpc_error.field_violations
    hints = [f"{one.field}: {one.description}" for one in violations if one.description not in error.message]
    if error.code == "UNAUTHENTICATED":
        hints.append("create a token with `luthier auth issue`, and pass it in LUTHIER_TOKEN or the profile")
    if rpc_error.retry_after_s:
        hints.append(f"try again in {rpc_error.retry_after_s:.0f} s")
    in_log = code == exits.INTERNAL and rpc_error.request_id
    log = f", request {rpc_error.request_id} in the log of {rpc_error.service}" if in_log else ""
    hints.append(f"({error.reason}{log})")
    more: dict[str, Any] = {"code": error.code, "metadata": error.metadata}
    if violations:
        more["field_violations"] = [vars(one) for one in violations]
    return _fail(session, code, error.message, reason=error.reason, error=error, hints=hints, **more)


def _usage_failed(session: Session, error: click.ClickException) -> int:
    code = exits.IO if isinstance(error, click.FileError) else exits.USAGE
    context: click.Context | None = getattr(error, "ctx", None)
    hints = [] if context is None else [context.get_usage(), f"more: {context.command_path} --help"]
    return _fail(session, code, error.format_message(), reason="USAGE", hints=hints)


def _interrupted(session: Session) -> int:
    name = session.following
    if session.as_json:
        session.emit({"event": "interrupted", "following": name})
    elif name:
        click.echo(f"\ninterrupted; {name} continues\n  watch it again: luthier jobs watch {name}", err=True)
        if not name.startswith("baseModels/"):  # an import cannot be cancelled
            click.echo(f"  stop it:        luthier jobs cancel {name}", err=True)
    else:
        click.echo("\ninterrupted", err=True)
    return exits.INTERRUPTED


if __name__ == "__main__":
    main()
