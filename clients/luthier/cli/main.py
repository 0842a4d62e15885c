"""The root of the command line: which command is where, how errors are told, what the exit code is."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from luthier.cli import exits
from luthier.cli.session import Session, apply_common, common_options
from luthier.errors import LuthierError

# Command: (module below luthier.cli, attribute, line of the help). The order is that of the loop.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("installation", "up", "Start the four services on this machine."),
    "down": ("installation", "down", "Stop them; jobs go on after the next `up`."),
    "status": ("installation", "status", "Show what runs and whether it serves."),
    "doctor": ("doctor", "doctor", "Check this machine and the installation; say what to do."),
    "model": ("models", "model", "Base models: import, list."),
    "dataset": ("datasets", "dataset", "Datasets: import, curate, show, list, export."),
    "train": ("training", "train", "Train an adapter on a dataset revision."),
    "adapters": ("adapters", "adapters", "Adapters and their revisions: list."),
    "jobs": ("jobs", "jobs", "Training jobs, evaluations and curations: list, watch, cancel."),
    "evaluate": ("evaluations", "evaluate", "Compare an adapter with the base model, prompting and retrieval."),
    "annotate": ("annotation", "annotate", "Let people judge answers blindly; correct a judge by them."),
    "challenge": ("challenge", "challenge", "Challenge cases of a task: propose, upload reviewed ones."),
    "prompt": ("prompts", "prompt", "Prompts: optimise on the validation split, show, list."),
    "import-eval": (
        "eval_imports",
        "import_eval",
        "Turn an OpenAI or promptfoo evaluation into ours.",
    ),
    "gate": ("gates", "gate", "Judge an evaluation by a policy: GO (0), NO-GO (1), INCONCLUSIVE (2); plan, selftest."),
    "verdict": ("verdicts", "verdict", "Say which way of answering to use: base, prompt, retrieval, tuning."),
    "compare": ("verdicts", "compare", "Compare two evaluations, and say what differs between them."),
    "holdout": ("holdouts", "holdout", "How worn a holdout is, and who looked at it: show, ledger."),
    "deploy": ("deployments", "deploy", "Make an adapter revision live, while requests run."),
    "promote": ("deployments", "promote", "Make a staged revision live."),
    "rollback": ("deployments", "rollback", "Make the previous revision live again."),
    "traffic": ("traffic", "traffic", "Shares of a deployment's revisions, and its mirror: set, show."),
    "pin": ("deployments", "pin", "Keep a deployment's adapters in memory."),
    "unpin": ("deployments", "unpin", "Let them make room for others."),
    "prefetch": ("deployments", "prefetch", "Load a deployment's adapter before anybody asks."),
    "undeploy": ("deployments", "undeploy", "Remove a deployment."),
    "deployments": ("deployments", "deployments", "List deployments."),
    "generate": ("inference", "generate", "Continue a text."),
    "chat": ("inference", "chat", "Answer a message, or hold a conversation."),
    "feedback": ("feedback", "feedback", "What users say about answers: record, export."),
    "capture": ("captures", "capture", "Whether prompts and answers are kept: show, set, list."),
    "quota": ("quotas", "quota", "What a tenant may take of the inference service: show, set."),
    "batch": ("inference", "batch", "Answer every line of a file."),
    "score": ("inference", "score", "Show how likely a completion is."),
    "auth": ("auth", "auth", "Tokens: issue."),
}


class Root(click.Group):
    """Loads a command's module when the command is used, so that the help needs none of them."""

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
            from difflib import get_close_matches

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
        return _told_usage(session, error, as_json=session.as_json or "--json" in arguments)
    except LuthierError as error:
        return _told(session, error)
    except (KeyboardInterrupt, click.Abort):
        return _told_interrupt(session)
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # the reader has gone: keep the interpreter's last flush quiet
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.OK
    except OSError as error:
        return _told_file(session, error)
    except Exception as error:
        return _told_defect(session, error)


def _told(session: Session, error: LuthierError) -> int:
    code = exits.code_of(error)
    violations = getattr(error, "field_violations", ())
    if session.as_json:
        document: dict[str, Any] = {"event": "error", "reason": error.reason, "message": error.message}
        document |= {"code": error.code, "metadata": error.metadata}
        if violations:
            document["field_violations"] = [vars(violation) for violation in violations]
        session.emit(document)
    else:
        click.echo(f"error: {error.message}", err=True)
        for violation in violations:
            if violation.description not in error.message:
                click.echo(f"  {violation.field}: {violation.description}", err=True)
        if error.code == "UNAUTHENTICATED":
            click.echo(
                "  tokens are made with `luthier auth issue`; LUTHIER_TOKEN or the profile presents one", err=True
            )
        retry_after_s = getattr(error, "retry_after_s", None)
        if retry_after_s:
            click.echo(f"  try again in {retry_after_s:.0f} s", err=True)
        request_id = getattr(error, "request_id", "")
        log = f", request {request_id} in the log of {getattr(error, 'service', '')}" if code == exits.INTERNAL else ""
        click.echo(f"  ({error.reason}{log if request_id else ''})", err=True)
    _trace(session, error)
    return code


def _told_usage(session: Session, error: click.ClickException, *, as_json: bool) -> int:
    code = exits.IO if isinstance(error, click.FileError) else exits.USAGE
    if as_json:
        session.emit(
            {"event": "error", "reason": "USAGE", "message": error.format_message(), "code": "", "metadata": {}}
        )
        return code
    click.echo(f"error: {error.format_message()}", err=True)
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(f"  {context.get_usage()}\n  more: {context.command_path} --help", err=True)
    return code


def _told_interrupt(session: Session) -> int:
    name = session.following
    if session.as_json:
        session.emit({"event": "interrupted", "following": name})
    elif name:
        click.echo(f"\ninterrupted; {name} goes on\n  watch it again: luthier jobs watch {name}", err=True)
        if not name.startswith("baseModels/"):  # an import cannot be cancelled
            click.echo(f"  stop it:        luthier jobs cancel {name}", err=True)
    else:
        click.echo("\ninterrupted", err=True)
    return exits.INTERRUPTED


def _told_file(session: Session, error: OSError) -> int:
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if session.as_json:
        session.emit({"event": "error", "reason": "FILE", "message": what, "code": "", "metadata": {}})
    else:
        click.echo(f"error: {what}", err=True)
    _trace(session, error)
    return exits.IO


def _told_defect(session: Session, error: Exception) -> int:
    what = f"{type(error).__name__}: {error}"
    if session.as_json:
        session.emit({"event": "error", "reason": "DEFECT", "message": what, "code": "", "metadata": {}})
    else:
        click.echo(
            f"error: a defect of the luthier command: {what}\n  run it again with --debug for the trace", err=True
        )
    _trace(session, error)
    return exits.INTERNAL


def _trace(session: Session, error: Exception) -> None:
    if session.debug:
        traceback.print_exception(error, file=sys.stderr)


if __name__ == "__main__":
    main()
