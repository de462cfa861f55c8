"""The ``attendance`` command. Each command calls another module and prints the result."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from worker.cli.api import api, tokens_app
from worker.cli.archive import archive
from worker.cli.dead_letters import dead_letters_app
from worker.cli.erase import erase
from worker.cli.history import explain
from worker.cli.mirror import mirror
from worker.cli.operations import operations
from worker.cli.publishing import publish, simulate
from worker.cli.reads import Json, alerts, booking, query, session, sessions
from worker.cli.rebuild import rebuild
from worker.cli.replay import replay
from worker.cli.services import service_settings
from worker.cli.show import fail, prepare_output, print_line
from worker.cli.signals import run_until_stopped
from worker.cli.verify import verify
from worker.cli.worker import worker
from worker.domain.row_codec import OtherFormat
from worker.engine.log_reader import LogUnreadable
from worker.ops import demo, dev, doctor, export
from worker.ops import topics as topic_ops
from worker.ops.archive_format import ArchiveError
from worker.ops.children import ChildFailed
from worker.ops.coverage import LoadError
from worker.ops.dead_letters import DeadLetterError
from worker.ops.embedded import NotForThisPlatform
from worker.ops.erase import EraseError
from worker.ops.replay_sources import ReplayError
from worker.ops.verify import VerifyError
from worker.read_model.builds import BuildError
from worker.read_model.operations import OperationError
from worker.read_model.reader import ReaderError
from worker.settings import SettingsError, installed_version, load_settings, shown, unknown_variables
from worker.stream.errors import StreamError
from worker.web.auth import TokensError

app = typer.Typer(
    help="Live attendance of booked sessions: consumes events from Kafka, answers queries from Redis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topics_app = typer.Typer(help="Create and check the topics.", no_args_is_help=True)
schemas_app = typer.Typer(help="JSON Schemas of events, alerts, attendances and dead letters.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(tokens_app, name="tokens")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(schemas_app, name="schemas")
for command in (query, session, sessions, booking, alerts, replay, archive, erase, explain, operations, rebuild, verify):
    app.command()(command)

#: Errors whose message is for the user: it is printed without a traceback, the exit code is 1.
_USER_ERRORS = (
    SettingsError,
    StreamError,
    OtherFormat,
    topic_ops.TopicsError,
    ChildFailed,
    NotForThisPlatform,
    ReaderError,
    TokensError,
    OperationError,
    BuildError,
    LogUnreadable,
    ReplayError,
    ArchiveError,
    DeadLetterError,
    EraseError,
    LoadError,
    VerifyError,
)


def main() -> None:
    """Entry point of the console script."""
    # client libraries log nothing until a worker configures logs: their errors are printed below
    logging.getLogger().addHandler(logging.NullHandler())
    prepare_output()
    try:
        try:
            app(prog_name="attendance")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # the reader closed the pipe, as `head` does; Python flushes stdout again at exit, which must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except _USER_ERRORS as error:
        fail(str(error))
    except KafkaError as error:
        fail(asyncio.run(doctor.broker_failure(load_settings(), error)))
    except (RedisError, TimeoutError) as error:
        fail(asyncio.run(doctor.redis_failure(load_settings(), error)))
    except OSError as error:
        # a file that a command reads or writes
        fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or repr(error))
    except ModuleNotFoundError:
        raise  # `worker.__main__` names the extra: only a command's own import shows that it is missing
    except Exception as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        fail(f"internal error: {error!r}; ATTENDANCE_LOG_LEVEL=DEBUG shows the traceback")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"attendance {installed_version()}")
        raise typer.Exit


@app.callback()
def before_each(
    _: Annotated[bool, typer.Option("--version", help="print the version", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Runs before each command: warns of environment variables that look like settings and are none."""
    for line in unknown_variables():
        print_line(line, sys.stderr)


app.command()(worker)
app.command()(mirror)
app.command()(api)
app.command()(publish)
app.command()(simulate)


@app.command("dev")
def dev_(
    demo_: Annotated[bool, typer.Option("--demo", help="play the sample events")] = False,
    once: Annotated[bool, typer.Option("--once", help="with --demo: exit after the events and print the totals")] = False,
) -> None:
    """Run broker, Redis, one worker and the API on this machine, without Docker and without Java."""
    if once and not demo_:
        raise typer.BadParameter("--once requires --demo")
    settings = load_settings()
    counts = run_until_stopped(lambda stop: dev.run(settings, play=demo_, once=once, stop=stop))
    if counts is not None:
        print(" ".join(f"{name}={count}" for name, count in counts.items()))
        if counts != demo.expected():
            raise typer.Exit(1)


@topics_app.command("create")
def topics_create() -> None:
    """Create missing topics, and correct wrong configs of existing ones."""
    created, altered = asyncio.run(topic_ops.create(service_settings()))
    if created:
        print(f"created {', '.join(created)}")
    for line in altered:
        print_line(line)
    if not (created or altered):
        print("all topics exist with the required configs")


@topics_app.command("check")
def topics_check() -> None:
    """Check that the topics exist with the required configs."""
    problems = asyncio.run(topic_ops.check(service_settings()))
    for problem in problems:
        print_line(problem, sys.stderr)
    if problems:
        raise typer.Exit(1)
    print("all topics exist with the required configs")


@app.command("doctor")
def doctor_(as_json: Json = False) -> None:
    """Check broker, topics, Redis and workers; print every setting, secrets masked."""
    settings = service_settings()
    findings = asyncio.run(doctor.examine(settings))
    if as_json:
        print(json.dumps({"settings": shown(settings), "findings": [f._asdict() for f in findings]}))
    else:
        for name, value in shown(settings).items():
            print_line(f"{name}={value}")
        for finding in findings:
            print_line(f"{'ok ' if finding.ok else 'BAD'} {finding.what}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@schemas_app.command("export")
def schemas_export(
    folder: Annotated[Path, typer.Option("--to", help="folder to write to")] = export.FOLDER,
) -> None:
    """Write the JSON Schemas of events, alerts, attendances and dead letters, and the AsyncAPI document of the topics."""
    for path in export.write(folder):
        print(path)
