"""`pellucid serve`: serves models over HTTP, with OpenAI's interface."""

from __future__ import annotations

import os
import re
import shlex
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli import options, output
from pellucid.errors import IsaError, PellucidError, one_line

if TYPE_CHECKING:
    from pellucid.server.access import Key
    from pellucid.server.models import Hosted
    from pellucid.server.settings import Limits

_NEEDS = ("starlette", "uvicorn", "httptools", "prometheus_client", "anyio")
_ACCESS, _LIMITS, _MODEL = "Access", "Limits", "Model"


def serve(
    model: Annotated[
        list[str],
        typer.Option(
            "-m",
            "--model",
            metavar="[NAME=]MODEL",
            help=options.MODEL_HELP
            + " NAME is what clients call it. Given several times: several names of one model, or"
            " several models, each loaded when a request first names it.",
            autocompletion=options.pulled,
        ),
    ] = [options.DEFAULT],  # noqa: B006  # Typer copies it
    host: Annotated[str, typer.Option(metavar="HOST", help="Address or name to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port; 0: a free one.")] = 8080,
    unix: Annotated[
        str | None, typer.Option(metavar="PATH", help="Listen on this Unix socket instead, only for this user.")
    ] = None,
    default_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model that answers requests for unknown names.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory of all models together, such as 8G; default: what the machine has left. The least recently"
            " used model is unloaded to make room for another.",
        ),
    ] = None,
    keep_alive: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Unload a model that has been idle this long, such as 30s, 5m or 2h; default: never.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse unknown fields of requests.")] = False,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time that running requests get when the server is stopped.")
    ] = 30.0,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write each line of the log as JSON.")] = False,
    ui: Annotated[bool, typer.Option("--ui", help="Also serve an app: chats and experiments in the browser.")] = False,
    look: Annotated[
        bool,
        typer.Option(
            "--look", help="Serve the endpoints of the app, for looking inside and for edits, without the app."
        ),
    ] = False,
    key_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Accepted keys, one per line: KEY [NAME [PRIORITY]]. [env: PELLUCID_API_KEY adds one]",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Allow other machines to connect without a key.", rich_help_panel=_ACCESS),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another name of this server that requests may use; may be given several times.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Allow requests from web pages of this origin, such as https://example.org; repeatable.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    max_waiting: Annotated[
        int,
        typer.Option(
            metavar="N", help="Maximum number of waiting requests; further ones get 429.", rich_help_panel=_LIMITS
        ),
    ] = 64,
    max_waiting_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Maximum number of waiting prompt tokens; default: as many as take two minutes.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_connections: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of open connections.", rich_help_panel=_LIMITS)
    ] = 512,
    max_body: Annotated[
        str, typer.Option(metavar="SIZE", help="Maximum size of a request's body.", rich_help_panel=_LIMITS)
    ] = "8M",
    max_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="Maximum time of a request.", rich_help_panel=_LIMITS)
    ] = 600.0,
    max_load_seconds: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="Maximum time that a request waits for its model.", rich_help_panel=_LIMITS
        ),
    ] = 120.0,
    max_n: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of choices (n) of a request.", rich_help_panel=_LIMITS)
    ] = 8,
    max_prompts: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of prompts of a request.", rich_help_panel=_LIMITS)
    ] = 64,
    responses: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="How many answers of /v1/responses to keep, so that requests can continue from them; 0: none.",
            rich_help_panel=_LIMITS,
        ),
    ] = 0,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    precision: options.Precision = "default",
    quantize: options.Quantize = None,
    template: options.Template = None,
    share: options.Share = False,
    cache_bytes: options.CacheBytes = None,
    checkpoints: options.Checkpoints = None,
    prefix_cache: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory of the prefix cache, such as 2G; 0: none; default: --cache-bytes, or a quarter of the rest.",
        ),
    ] = None,
    cache_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder that keeps the prefix cache across restarts; it holds clients' texts."
        ),
    ] = None,
    cache_dir_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="Maximum total size of the files in that folder.")
    ] = "10G",
    draft: options.Draft = None,
    no_speculate: Annotated[
        bool, typer.Option("--no-speculate", help="Do not guess next tokens, unless a request asks for it.")
    ] = False,
    share_cache: Annotated[
        bool, typer.Option("--share-cache", help="Let all keys share the prefix cache.", rich_help_panel=_ACCESS)
    ] = False,
    sequences: Annotated[int, typer.Option(metavar="N", help="Maximum number of running generations.")] = 32,
    max_gap: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long a prompt may hold up the tokens of other requests."),
    ] = 0.1,
) -> None:
    """Serves models over HTTP, with the interfaces of OpenAI, Anthropic and Ollama.

    Clients use http://127.0.0.1:8080/v1 as their base URL. Each request is logged as a line on stderr.
    """
    try:
        from pellucid.server import access, models, record, run, settings
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _NEEDS:
            raise
        raise PellucidError(f"{error.name} is missing: pip install 'pellucid[server]'") from None

    named = _names(model)
    if template is not None and len(named) > 1:
        raise output.UsageError("--template: applies to a single model, and there are several")
    names = [name for several in named.values() for name in several]
    limit = None if memory is None else options.nbytes("--memory", memory, 1)
    sizes = _sizes(named, limit)
    if len(named) > 1:  # a single model is loaded at the start, which finds these errors
        _check(
            isa,
            kv=kv,
            precision=precision,
            threads=threads,
            context=context,
            sequences=sequences,
            max_gap=max_gap,
            quantize=quantize,
            share=share,
            cache_bytes=cache_bytes,
            checkpoints=checkpoints,
        )
    keys = _keys(key_file)
    loopback = unix is not None or access.is_loopback(host)
    if not loopback and not keys and not insecure:
        raise output.UsageError(
            f"--host={host}: other machines can reach it; give --key-file, PELLUCID_API_KEY or --insecure"
        )
    for one in allow_host or ():
        if not access.is_host(one):
            raise output.UsageError(f"--allow-host={one_line(one, 80)}: expected a name or an address, without a port")
    for one in cors_origin or ():
        if not access.is_origin(one):
            expected = "expected an origin as browsers send it, such as https://example.org"
            raise output.UsageError(f"--cors-origin={one_line(one, 80)}: {expected}")
    if default_model is not None and default_model not in names:
        raise output.UsageError(f"--default-model={default_model}: expected one of {', '.join(names)}")
    if not 0 <= port <= 65535:
        raise output.UsageError(f"--port={port}: expected 0 to 65535")
    prefix = True if limit is None else limit // (4 * len(named))
    if prefix_cache is not None:
        prefix = options.nbytes("--prefix-cache", prefix_cache, 0)
    if cache_dir is not None and not prefix:
        raise output.UsageError("--cache-dir: needs a prefix cache; leave --prefix-cache=0 out")
    if draft is not None and len(named) > 1:
        raise output.UsageError("--draft: applies to a single model, and there are several")
    chosen = settings.Settings(
        names=tuple(names),
        memory=limit,
        keep_alive=None if keep_alive is None else _seconds("--keep-alive", keep_alive),
        default_model=default_model,
        keys=keys,
        bound="" if unix is not None else host,
        hosts=tuple(allow_host or ()),
        origins=tuple(cors_origin or ()),
        share_cache=share_cache,
        speculate=False if no_speculate else "auto",
        template=None if template is None else options.read_template(template),
        cache_dir=_folder("--cache-dir", cache_dir),
        cache_dir_bytes=options.nbytes("--cache-dir-bytes", cache_dir_bytes, 1),
        strict=strict,
        grace=_number("--grace", grace, 0, 86400),
        log_json=log_json,
        ui=ui,
        look=look,
        responses=_number("--responses", responses, 0, 1 << 20),
        limits=_limits(
            settings.Limits(),
            body=options.nbytes("--max-body", max_body, 1),
            connections=_number("--max-connections", max_connections, 1, 65536),
            waiting=_number("--max-waiting", max_waiting, 1, 1 << 20),
            waiting_tokens=None
            if max_waiting_tokens is None
            else _number("--max-waiting-tokens", max_waiting_tokens, 1, 1 << 31),
            n=_number("--max-n", max_n, 1, 1024),
            prompts=_number("--max-prompts", max_prompts, 1, 4096),
            request_seconds=_number("--max-seconds", max_seconds, 0.001, 1e9),
            load_seconds=_number("--max-load-seconds", max_load_seconds, 0.001, 1e9),
        ),
    )
    listener = run.listen(host, port) if unix is None else run.listen_unix(unix)
    made = None if unix is None else os.stat(unix)
    address = "http://localhost" if unix is not None else _address(host, listener.getsockname()[1])

    def load(source: str) -> Any:
        return options.load(
            source,
            threads=threads,
            context=context,
            isa=isa,
            kv=kv,
            precision=precision,
            quantize=quantize,
            share=share,
            cache_bytes=cache_bytes,
            checkpoints=checkpoints,
            prefix_cache=prefix,
            draft=draft,
            sequences=sequences,
            max_gap=max_gap,
            say=record.log.info,
        )

    def ready(only: Hosted | None) -> None:
        key = "" if not keys else "$PELLUCID_API_KEY" if os.environ.get("PELLUCID_API_KEY") else "KEY"
        output.line(_greeting([several[0] for several in named.values()], address, unix, key, only, template is None))
        if ui and unix is None:
            output.line(f"the app: {address}/")
        output.flush()

    try:
        sources = [models.Source(tuple(n), partial(load, source), sizes[source]) for source, n in named.items()]
        run.serve(sources, chosen, listener, ready)
    finally:
        if unix is not None and made is not None:
            with suppress(FileNotFoundError):
                now = os.stat(unix)  # a server that starts while this one stops replaces the socket by its own
                if (now.st_ino, now.st_mtime_ns) == (made.st_ino, made.st_mtime_ns):
                    os.unlink(unix)


def _names(models: list[str]) -> dict[str, list[str]]:
    """The models that -m gave, each with the names that clients may use."""
    found: dict[str, list[str]] = {}
    taken: dict[str, str] = {}
    for given in models:
        name, equals, source = given.partition("=")
        if not equals or os.path.exists(given):
            name, source = _own_name(given), given
        if not name or not source or not name.isprintable():
            raise output.UsageError(f"--model={one_line(given, 80)}: expected MODEL or NAME=MODEL")
        if taken.setdefault(name, source) != source:
            raise output.UsageError(f"--model={one_line(given, 80)}: {one_line(name, 80)} already names another model")
        names = found.setdefault(source, [])
        if name not in names:
            names.append(name)
    return found


def _sizes(named: dict[str, list[str]], limit: int | None) -> dict[str, int]:
    """Bytes of each model's files; 0 if unknown. A missing model is an error if it would only be loaded later."""
    found = {}
    for source, names in named.items():
        found[source] = _size(source, check=len(named) > 1)
        if limit is not None and found[source] > limit:
            raise output.UsageError(f"--memory: {one_line(names[0], 80)} alone takes {options.size(found[source])}")
    return found


def _check(
    isa: str | None,
    *,
    quantize: str | None,
    share: bool,
    cache_bytes: str | None,
    checkpoints: str | None,
    **given: Any,
) -> None:
    """Raises UsageError for options that no model would accept."""
    from pellucid import _engine, checks, core, sharing
    from pellucid.weights.quantise import check_mixture

    for option, size in (("--cache-bytes", cache_bytes), ("--checkpoints", checkpoints)):
        if size is not None:
            options.nbytes(option, size, least=1)
    with options.naming("quantize", "share", *given):
        checks.choice("kv", given["kv"], core.KV_CHOICES)
        checks.choice("precision", given["precision"], core.PRECISIONS)
        core.thread_count(given["threads"])
        if given["context"] is not None:
            checks.integer("context", given["context"], 1)
        checks.integer("sequences", given["sequences"], 1, core.MOST_SEQUENCES)
        checks.number("max_gap", given["max_gap"], 0)
        sharing.asked(share or None)
        if quantize is not None:
            check_mixture(quantize, "quantize")
    try:
        _engine.find_isa(isa or os.environ.get("PELLUCID_ISA") or None)
    except IsaError as error:
        raise output.UsageError(f"{'PELLUCID_ISA' if isa is None else '--isa'}: {error}") from None


def _size(source: str, check: bool) -> int:
    from pellucid.weights import catalog, inventory, reference

    path = Path(source)
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors") if file.is_file())
    if path.exists():
        return sum(os.stat(file).st_size for file in reference.parts_of(source))
    entry = catalog.find(source)
    if entry is not None:
        return entry.size
    try:
        return inventory.find(source).bytes
    except PellucidError:
        if check:
            raise
        return 0  # loading reports the error


def _own_name(source: str) -> str:
    """A model's default name: its file's, without folders and suffix."""
    path = Path(source)
    return (path.stem if path.suffix == ".gguf" else path.name) if os.path.exists(source) else source


def _keys(path: str | None) -> tuple[Key, ...]:
    from pellucid.server.access import Key, read_keys

    found = read_keys(path) if path is not None else ()
    value = os.environ.get("PELLUCID_API_KEY", "")
    if value:
        if any(not 32 < ord(c) < 127 for c in value):
            raise output.UsageError("PELLUCID_API_KEY: expected printable ASCII without spaces")
        key = Key.of(value)
        if all(one.digest != key.digest for one in found):
            if any(one.name == key.name for one in found):
                raise output.UsageError(f"PELLUCID_API_KEY: its key is called {key.name}, and so is one in {path}")
            found = (*found, key)
    return found


def _limits(limits: Limits, **values: Any) -> Limits:
    from dataclasses import replace

    return replace(limits, **values)


def _folder(option: str, path: str | None) -> str | None:
    if path is not None and (not path or os.path.exists(path) and not os.path.isdir(path)):
        raise output.UsageError(f"{option}={one_line(path, 80)}: expected a folder")
    return path


def _seconds(option: str, text: str) -> float:
    """A time: a number of seconds, or one with s, m or h."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh]?)", text.strip(), re.ASCII)
    if match is None:
        raise output.UsageError(f"{option}={one_line(text, 60)!r}: expected a time, such as 30s, 5m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _number(option: str, value: Any, low: float, high: float) -> Any:
    if not low <= value <= high:
        raise output.UsageError(f"{option}={value}: expected {low:g} to {high:g}")
    return value


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _greeting(names: list[str], address: str, unix: str | None, key: str, only: Hosted | None, own: bool = True) -> str:
    """The line printed when the server is ready. key: as a shell writes it, "" if none is needed. only: the model, if
    there is a single one. own: --template was not given."""
    path, body = "chat/completions", '{"messages": [{"role": "user", "content": "Hello"}]}'
    model = None if only is None else only.model
    if only is not None and model is not None:
        if not only.generates and model.core.embedder.pooling is None:
            path, body = "rerank", '{"query": "Hello", "documents": ["Hi", "Bye"]}'
        elif not only.generates:
            path, body = "embeddings", '{"input": "Hello"}'
        elif own and (model.tokenizer is None or model.tokenizer.chat_template is None):
            path, body = "completions", '{"prompt": "Hello", "max_tokens": 32}'
    where = f"--unix-socket {shlex.quote(unix)} " if unix is not None else ""
    header = f'-H "Authorization: Bearer {key}" ' if key else ""
    call = f"curl {where}{address}/v1/{path} {header}-H 'Content-Type: application/json' -d '{body}'"
    return f"{', '.join(names)} at {unix or address + '/v1'}; try: {call}"
