"""The commands `api` and `tokens …`. Only `api` imports the server, so that the other commands start fast."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.arguments import decode_argument
from worker.cli.services import service_settings, tokens_settings
from worker.cli.show import fail, print_rows
from worker.durations import duration
from worker.settings import Settings, SettingsError
from worker.web.auth import Scope, create_token, read_tokens, revoke_token, shown

tokens_app = typer.Typer(help="Create, list and revoke tokens of the API.", no_args_is_help=True)


def api(
    workers: Annotated[int, typer.Option(min=1, max=64, help="number of processes that share the address")] = 1,
) -> None:
    """Serve the Attendance API over HTTP."""
    from worker.web.http import server

    settings = service_settings()
    try:
        bound = server.bind(settings)
    except server.ServeError as error:
        fail(str(error))
    if workers == 1:
        server.run_until_stopped(settings, bound)
    else:
        from worker.web.http import processes

        raise typer.Exit(processes.serve_many(settings, bound, workers))


@tokens_app.command("create")
def tokens_create(
    scope: Annotated[list[Scope], typer.Option(help="what the token allows; may be repeated")],
    name: Annotated[str, typer.Option(help="name of the token; it is revoked by this name")] = "",
    expires: Annotated[str, typer.Option(help="lifetime, as 90d or 12h; without it the token never expires")] = "",
    source: Annotated[str, typer.Option(help="source prefix that the token may publish, as /gates/north")] = "",
) -> None:
    """Create a token and print it once; its digest is added to the file that ATTENDANCE_API_TOKENS names."""
    path = _path(tokens_settings())
    now = time.time()
    print(
        create_token(
            path,
            scope,
            decode_argument(name) or f"token-{int(now * 1000)}",
            _lifetime(expires),
            now,
            decode_argument(source) or None,
        )
    )


@tokens_app.command("list")
def tokens_list(as_json: Annotated[bool, typer.Option("--json", help="one JSON document per line")] = False) -> None:
    """Show the tokens' names, scopes and times."""
    path = _path(tokens_settings())
    print_rows([shown(token) for token in read_tokens(path)] if path.exists() else [], as_json, _COLUMNS)


@tokens_app.command("revoke")
def tokens_revoke(name: str) -> None:
    """Remove a token from the file; running API processes notice it within a second."""
    revoke_token(_path(tokens_settings()), decode_argument(name))


_COLUMNS = ("name", "scopes", "source", "createdAt", "expiresAt")


def _path(settings: Settings) -> Path:
    if settings.api_tokens is None:
        raise SettingsError("ATTENDANCE_API_TOKENS: is not set; set it to the path of the token file")
    return settings.api_tokens


def _lifetime(text: str) -> timedelta | None:
    if not text:
        return None
    lifetime = duration(text)
    if lifetime is None or not lifetime:
        raise typer.BadParameter("--expires: write a duration as 90d, 12h or 30m")
    return lifetime
