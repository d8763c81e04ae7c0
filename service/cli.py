"""``python -m service serve``, ``score``, ``bench``, ``keys`` and ``targets``.

Exit status of ``score``: 0 every clip is normal (or has no decision), 1 something is anomalous, 2 something could not
be scored. ``serve`` ends with 0 when it is told to stop, and with 2 where its bundle, device, database or address
cannot be used.
"""

import argparse
import logging
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import SettingsError

from models.commands import shell_line
from models.errors import EarwitnessError
from models.vocabulary import Domain
from service.access import KeyFile, Scope
from service.audit import Change, attempt_by, user_name
from service.bench.arguments import add_arguments as add_bench_arguments
from service.ending import FAILED, INTERRUPTED
from service.logs import LogFormat, configure, keep_audit
from service.settings import Settings, not_json, unknown_variables

_log = logging.getLogger("service")
_CHANGING = frozenset({"serve", "keys", "targets"})
"""Commands that have something to audit."""
_LAST_ANSWERS_S = 2
"""How long answers may still be on their way once nothing is in hand any more: a part of `AFTER_DRAIN_S`."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=shell_line("service"), description="Serve a bundle, or score clips with one.")
    commands = parser.add_subparsers(dest="command", required=True)

    serve = commands.add_parser("serve", help="answer over HTTP until stopped")
    serve.add_argument("--bundle", type=Path, help="the bundle folder (default: the demonstration bundle)")
    serve.add_argument("--host", help="the address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="the port to listen on (default 8000)")
    serve.add_argument("--watch", action="store_true", default=None, help="follow the symbolic link that the bundle is")
    serve.set_defaults(run=_serve)

    keys = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = keys.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key, and print it once")
    create.add_argument("name", metavar="NAME", help="who has it")
    create.add_argument(
        "--scope",
        action="append",
        required=True,
        choices=[scope.value for scope in Scope],
        help="what it may be used for; may be given several times",
    )
    create.set_defaults(run=_create_key)
    actions.add_parser("list", help="names, scopes and ages of the keys").set_defaults(run=_list_keys)
    revoke = actions.add_parser("revoke", help="take a key out of force, at once")
    revoke.add_argument("name", metavar="NAME")
    revoke.set_defaults(run=_revoke_key)

    score = commands.add_parser("score", help="score clips, folders of clips, or the clips of CSV manifests")
    score.add_argument("sources", nargs="+", type=Path, metavar="CLIP|FOLDER|MANIFEST")
    score.add_argument("--machine-type", metavar="M", help="needed where no manifest column says it")
    score.add_argument("--section", default="00", metavar="S", help="default 00")
    score.add_argument("--domain", default=Domain.SOURCE.value, choices=[domain.value for domain in Domain])
    score.add_argument(
        "--url",
        metavar="U",
        help="score with the service at this address, by the key EARWITNESS_API_KEY, instead of loading a bundle",
    )
    score.add_argument("--bundle", type=Path, help="the bundle folder to load (default: as for serve)")
    out = score.add_mutually_exclusive_group()
    out.add_argument(
        "--csv", type=Path, metavar="F", help="write rows there; clips that it has scores of are not scored again"
    )
    out.add_argument("--jsonl", type=Path, metavar="F", help="the same as JSON lines, with the whole answers")
    score.set_defaults(run=_score)

    targets = commands.add_parser(
        "targets", help="carry registered target clips out of a database, or into an empty one"
    )
    targets.add_argument("action", choices=["export", "import"])
    targets.add_argument("folder", type=Path, metavar="DIR", help="the folder to write, or to read")
    targets.set_defaults(run=_targets)

    bench = commands.add_parser("bench", help="measure what a clip costs, beside the naive way, or a running server")
    add_bench_arguments(bench)
    bench.set_defaults(run=_bench)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    options = _parser().parse_args(arguments)
    chosen = {name: getattr(options, name, None) for name in ("bundle", "host", "port", "watch")}
    try:
        settings = Settings(**{name: value for name, value in chosen.items() if value is not None})
    except ValidationError as error:
        for one in error.errors():
            name = ".".join(map(str, one["loc"]))
            given = re.sub(r"(://[^/@]*:)[^/@]*@", r"\1***@", repr(one["input"]))  # a URL may hold a password
            print(f"error: setting EARWITNESS_{name.upper()}: {one['msg']} (it is {given})", file=sys.stderr)
        return FAILED
    except SettingsError as error:
        print(f"error: setting {not_json(error)}", file=sys.stderr)
        return FAILED
    configure(settings.log_level, settings.log_format if options.command == "serve" else LogFormat.TEXT)
    for variable in unknown_variables():
        _log.warning("%s names no setting and is ignored", variable)
    try:
        if options.command in _CHANGING and settings.audit is not None:
            keep_audit(settings.audit)
        status: int = options.run(settings, options)
    except EarwitnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:  # noqa: BLE001  it has a status of its own
        _log.critical("unforeseen error", exc_info=True)
        return FAILED
    return status


def _serve(settings: Settings, _options: argparse.Namespace) -> int:
    import uvicorn

    from service.app import create_app, metrics_app
    from service.protocol import Protocol
    from service.server import Server

    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        timeout_keep_alive=settings.keep_alive_s,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )
    resources = app.state.resources
    resources.gate.check_startable(settings.host)
    server = Server(config, resources)
    resources.on_refusal = lambda: server.stop(FAILED)
    if settings.metrics_port is not None:
        server.beside(metrics_app(resources), settings.metrics_port)
    # uvicorn raises the signal again once it has drained; with this handler, not Python's, the exit status is 0
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.run()
    if resources.refusal is not None:
        print(f"error: {resources.refusal}", file=sys.stderr)
        return FAILED
    return 0


def _create_key(settings: Settings, options: argparse.Namespace) -> int:
    scopes = sorted({Scope(name) for name in options.scope})
    about = {"key_name": options.name, "scopes": ",".join(scopes), "file": settings.keys}
    with attempt_by("keys create", user_name(), **about), Change() as audited:
        secret = KeyFile(settings.keys).create(options.name, scopes)
        audited.made()
    print(secret)
    return 0


def _list_keys(settings: Settings, _options: argparse.Namespace) -> int:
    keys = KeyFile(settings.keys).read()
    if not keys:
        create = shell_line("service keys create NAME --scope score")
        print(f"There are no keys in {settings.keys}. Make one with {create}.", file=sys.stderr)
    for key in keys:
        print(key.name, ",".join(sorted(key.scopes)), key.created_at.isoformat(timespec="seconds"), sep="\t")
    return 0


def _revoke_key(settings: Settings, options: argparse.Namespace) -> int:
    about = {"key_name": options.name, "file": settings.keys}
    with attempt_by("keys revoke", user_name(), **about), Change() as audited:
        KeyFile(settings.keys).revoke(options.name)
        audited.made()
    return 0


def _score(settings: Settings, options: argparse.Namespace) -> int:
    from service.bulk import HttpScorer, LocalScorer, find_jobs, score_all
    from service.sheets import key_of, open_sheet

    logging.getLogger().setLevel(max(logging.WARNING, logging.getLogger().level))
    jobs = find_jobs(options.sources, options.machine_type, options.section, options.domain)
    with (
        HttpScorer(options.url, settings.api_key) if options.url else LocalScorer(settings) as scorer,
        open_sheet(options.csv, options.jsonl, scorer.bundle, {key_of(job.row) for job in jobs}) as sheet,
    ):
        return score_all(jobs, scorer, sheet)


def _targets(settings: Settings, options: argparse.Namespace) -> int:
    from service.databases import shown
    from service.transfers import export_targets, import_targets

    if options.action == "export":
        print(f"exported {export_targets(settings.database, options.folder)} to {options.folder}")
    else:
        about = {"folder": options.folder, "database": shown(settings.database)}
        with attempt_by("targets import", user_name(), **about), Change() as audited:
            done = import_targets(settings.database, options.folder)
            audited.made(registrations=done.registrations, clips=done.clips)
        print(f"imported {done} into {shown(settings.database)}")
    return 0


def _bench(settings: Settings, options: argparse.Namespace) -> int:
    from service.bench.command import run

    return run(settings, options)
