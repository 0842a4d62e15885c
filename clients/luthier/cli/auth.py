"""luthier auth issue | revoke | rotate"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

import click

from luthier import names, profiles, tokens
from luthier.cli import installation
from luthier.cli.durations import seconds
from luthier.cli.session import Group, Session
from luthier.config_files import nearest_key
from luthier.errors import ProfileError
from luthier.services import OPERATOR_SCOPES, SCOPES

KEYS = "luthierd.rpc.keys"
"""The module that changes the files of the installation's keys."""


@click.group(cls=Group)
def auth() -> None:
    """Tokens: who may call, for which tenant, with which scopes, until when."""


@auth.command()
@click.option("--scopes", metavar="SCOPE,...", help="Comma-separated. Default: all except the operator's.")
@click.option("--ttl", default="24h", show_default=True, metavar="TIME", help="E.g. 30m, 24h, 90d.")
@click.option("--subject", default="cli", show_default=True, help="Who it is for; services log it.")
def issue(session: Session, *, scopes: str | None, ttl: str, subject: str) -> None:
    """Sign a token for --tenant with this machine's key (made by `luthier up`)."""
    if not session.tenant_option:
        raise click.UsageError("name the tenant: --tenant T", ctx=click.get_current_context())
    names.tenant(session.tenant_option)
    chosen = _scopes(scopes)
    ttl_s = _ttl_s(ttl)
    expires_s = int(time.time()) + ttl_s
    key = profiles.home() / "keys" / "private.pem"
    token = tokens.mint(key, tenant=session.tenant_option, scopes=chosen, ttl_s=ttl_s, subject=subject)
    if session.as_json:
        claims = {"tenant": session.tenant_option, "scopes": list(chosen), "expires_s": expires_s}
        session.emit({"token": token, "id": tokens.read_claims(token)["jti"], **claims})
        return
    click.echo(token)
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expires_s))
    session.note(f"for tenant {session.tenant_option} until {until}; present it with LUTHIER_TOKEN or a profile file")


@auth.command()
@click.argument("token", required=False)
@click.option("--id", "jti", metavar="ID", help="The id of the token, as `luthier auth issue --json` shows it.")
@click.option("--subject", metavar="NAME", help="All tokens that NAME of --tenant got until now; `*`: every subject.")
def revoke(session: Session, *, token: str | None, jti: str | None, subject: str | None) -> None:
    """Refuse a token from now on: TOKEN (`-` reads stdin), --id, or --subject. Calls in flight end by themselves."""
    if sum(given is not None for given in (token, jti, subject)) != 1:
        raise click.UsageError("name exactly one of TOKEN, --id and --subject", ctx=click.get_current_context())
    entry: dict[str, Any]
    if subject is not None:
        if not session.tenant_option:
            raise click.UsageError("name the tenant: --tenant T", ctx=click.get_current_context())
        names.tenant(session.tenant_option)
        subject = "" if subject == "*" else subject
        entry = {"tenant": session.tenant_option, "subject": subject, "issued_until_s": int(time.time())}
    elif token is not None:
        claims = tokens.read_claims(sys.stdin.read().strip() if token == "-" else token)  # noqa: S105 - the word for stdin
        if "jti" not in claims:
            raise ProfileError("the token has no id; revoke all of its subject with --subject", reason="INVALID_TOKEN")
        entry = {"jti": claims["jti"], "until_s": claims["exp"] + 60}
    else:
        entry = {"jti": jti}
    [changed] = installation.supervise("revoke", json.dumps(entry), module=KEYS)
    if session.as_json:
        session.emit(entry)
    else:
        session.note(f"revoked in {changed['path']}; services of other machines need a copy of it")


@auth.command()
@click.option("--finish", is_flag=True, help="End the tokens of all keys but the current one.")
def rotate(session: Session, *, finish: bool) -> None:
    """Sign with a new key. Tokens of the old key stay valid until --finish."""
    [changed] = installation.supervise("finish" if finish else "rotate", module=KEYS)
    if session.as_json:
        session.emit({"key_count": changed["key_count"]})
    elif finish:
        session.note("only tokens of the current key are valid now")
    else:
        session.note(
            f"{changed['key_count']} keys are valid; `luthier auth rotate --finish` ends the tokens of the old ones"
        )


def _scopes(value: str | None) -> tuple[str, ...]:
    if value is None:
        return tuple(scope for scope in SCOPES if scope not in OPERATOR_SCOPES)
    chosen = tuple(scope for scope in re.split(r"[,\s]+", value) if scope)
    for scope in chosen:
        if scope not in SCOPES:
            nearest = nearest_key(scope, SCOPES)
            hint = f"did you mean '{nearest}'?" if nearest else f"scopes: {', '.join(SCOPES)}"
            raise click.BadParameter(f"there is no scope '{scope}'; {hint}", param_hint="--scopes")
    if not chosen:
        raise click.BadParameter("name at least one scope", param_hint="--scopes")
    return chosen


def _ttl_s(value: str) -> int:
    """A number without a unit is in seconds."""
    ttl_s = int(seconds(f"{value}s" if value.strip().isdigit() else value, option="--ttl"))
    if not 0 < ttl_s <= tokens.MAX_TTL_S:
        raise click.BadParameter(f"'{value}' is not between 1s and 366d", param_hint="--ttl")
    return ttl_s
