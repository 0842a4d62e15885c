"""luthier auth issue"""

from __future__ import annotations

import re
import time

import click

from luthier import names, profiles, tokens
from luthier.cli.durations import seconds
from luthier.cli.session import Group, Session
from luthier.config_files import nearest_key
from luthier.services import OPERATOR_SCOPES, SCOPES

MAX_TTL_S = 366 * 86400


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
        session.emit({"token": token, "tenant": session.tenant_option, "scopes": list(chosen), "expires_s": expires_s})
        return
    click.echo(token)
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expires_s))
    session.note(f"for tenant {session.tenant_option} until {until}; present it with LUTHIER_TOKEN or a profile file")


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
    if not 0 < ttl_s <= MAX_TTL_S:
        raise click.BadParameter(f"'{value}' is not between 1s and 366d", param_hint="--ttl")
    return ttl_s
