"""`edge-interleave serve`: the OpenAI interface over HTTP, for apps that reach a model through a URL."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

import click

from edge_interleave.cli import output
from edge_interleave.cli.durations import duration
from edge_interleave.cli.named_sources import named_sources
from edge_interleave.cli.options import (
    COUNT,
    backend_option,
    complete_model,
    kv_precision_option,
    threads_option,
)
from edge_interleave.errors import BackendError, InputError, UsageError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_KEYS_BYTES_MAX = 1 << 16


@click.command()
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    metavar="NAME_OR_FOLDER",
    shell_complete=complete_model,
    help="A stored model's name or a bundle's folder; repeat for more. The first is the default (default: embedded).",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free port.")
@click.option("--memory", metavar="SIZE", help="2GB, 800MB, or 50% of the free memory (default: no limit).")
@click.option("--sessions", type=COUNT, default=4, show_default=True, help="KV caches per model, shared by requests.")
@click.option("--exact", is_flag=True, help="Recompute a history that lost its oldest turns, instead of sliding.")
@click.option("--keep-alive", callback=duration, metavar="TIME", help="Unload a model after it was idle this long.")
@click.option("--context", type=COUNT, help="Most tokens of a prompt with its answer (default: as many as needed).")
@backend_option
@threads_option
@kv_precision_option()
@click.option(
    "--api-key",
    "keys",
    multiple=True,
    metavar="KEY",
    envvar="EDGE_INTERLEAVE_API_KEY",
    help="API key that clients must send.",
)
@click.option("--api-key-file", type=_FILE, help="File of API keys, one per line.")
@click.option("--no-auth", is_flag=True, help="Let other machines in without a key.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="Host name that clients may use.")
@click.option("--allow-origin", "origins", multiple=True, metavar="URL", help="Web page origin that may call.")
@click.option("--allow-remote-images", is_flag=True, help="Fetch images from public http(s) addresses.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME=SOURCE",
    help="A source of this machine that the page may watch: door=camera:0, yard=rtsp://...; repeat for more.",
)
@click.option("--tls-self-signed", is_flag=True, help="Serve https with a certificate that is made and kept here.")
@click.option("--tls-cert", type=_FILE, help="Certificate (PEM) for https.")
@click.option("--tls-key", type=_FILE, help="Private key (PEM) of the certificate.")
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    memory: str | None,
    sessions: int,
    exact: bool,
    keep_alive: float | None,
    context: int | None,
    backend: str | None,
    threads: int | None,
    kv_precision: str,
    keys: tuple[str, ...],
    api_key_file: Path | None,
    no_auth: bool,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    allow_remote_images: bool,
    sources: tuple[str, ...],
    tls_self_signed: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Serve the OpenAI interface at http://127.0.0.1:8080/v1 for apps, and a live page for people at the same address.

    Chat completions with several images and videos, streams, JSON by schema, live windows. Images stay on this machine,
    and addresses in requests are not fetched. Ctrl-C or SIGTERM ends the server once running answers are complete.
    """
    all_keys = (*keys, *(() if api_key_file is None else _read_keys(api_key_file)))
    if any(not key.strip() for key in all_keys):
        raise UsageError("--api-key: a key must not be empty")
    if not _is_loopback(host) and not all_keys and not no_auth:
        raise UsageError(
            f"--host {host} lets other machines in: give --api-key or --api-key-file, or --no-auth if you mean it"
        )
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together; give both")
    if tls_self_signed and tls_cert is not None:
        raise UsageError("--tls-self-signed makes a certificate of its own; leave --tls-cert and --tls-key out")
    watched = named_sources(sources)
    for origin in origins:
        if not origin.startswith(("http://", "https://")):
            raise UsageError(f"--allow-origin {origin}: give scheme and host, for example https://app.example")
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise BackendError(f"packages are missing ({error}); pip install 'edge-interleave[serve]'") from error
    from edge_interleave.planning.system_memory import parse_memory
    from edge_interleave.serve.run import serve as run
    from edge_interleave.serve.settings import Settings, limits_within

    if tls_self_signed:
        from edge_interleave.serve.self_signed import default_folder, self_signed

        certificate = self_signed(default_folder())
        tls_cert, tls_key = certificate.cert, certificate.key
        output.note(f"certificate: {tls_cert}, SHA-256 {certificate.fingerprint}")
    size = None if memory is None else parse_memory(memory)
    settings = Settings(
        models=models or (None,),
        host=host,
        port=port,
        memory=size,
        limits=limits_within(size),
        sessions=sessions,
        exact=exact,
        keep_alive_s=keep_alive,
        backend=backend,
        context=context,
        threads=threads,
        kv_precision=kv_precision,
        keys=all_keys,
        hosts=hosts,
        origins=origins,
        remote_images=allow_remote_images,
        sources=watched,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    run(settings, _ready)


def _ready(url: str) -> None:
    parts = urlsplit(url)
    everywhere = parts.hostname in ("0.0.0.0", "::")
    if everywhere:
        from edge_interleave.serve.own_addresses import own_addresses

        hosts = own_addresses() or ("127.0.0.1",)
    else:
        hosts = (parts.netloc.rpartition(":")[0],)
    output.note("page: " + ", ".join(f"{parts.scheme}://{host}:{parts.port}/" for host in hosts))
    output.note(f"ready: {url}/v1 (ctrl-C ends it)")


def _read_keys(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            text = file.read(_KEYS_BYTES_MAX + 1).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text; give one key per line") from None
    if len(text) > _KEYS_BYTES_MAX:
        raise InputError(f"{path}: more than {_KEYS_BYTES_MAX} bytes; give one key per line")
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys:
        raise InputError(f"{path}: holds no key; give one key per line")
    return keys


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
