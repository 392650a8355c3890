"""``midstream gateway``: serve bundles until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from midstream.allocation.rates import DEFAULT_RATES, Rates
from midstream.cli.logs import LogFormat, LogFormatOption, LogLevelOption, set_up, tell
from midstream.cli.output import AcceleratorName, AcceleratorOption, on_stop_signal
from midstream.errors import BundleError

MAX_MBYTES = 1e9

BrokerOption = Annotated[
    str,
    typer.Option(
        "--broker",
        help="mqtt://, mqtts://, ws:// or wss:// URL; the account also from MIDSTREAM_MQTT_USERNAME and _PASSWORD.",
    ),
]
CredentialsOption = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        help="Folder with ca.pem, cert.pem and key.pem for mqtts:// and wss://; also from MIDSTREAM_MQTT_CREDENTIALS.",
    ),
]
HistoryOption = Annotated[
    Path | None, typer.Option("--history", help="File for what each request has used; see midstream history.")
]
HistorySizeOption = Annotated[
    float | None,
    typer.Option(
        "--history-mbytes",
        min=1,
        max=MAX_MBYTES,
        help="MB that it may have. Default: 256 MiB for a gateway, 32 MiB for run.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(gateway)


def gateway(
    bundles: Annotated[
        list[Path], typer.Option("--bundles", help="A bundle, or a folder of bundles; may be repeated.")
    ],
    broker: BrokerOption,
    credentials: CredentialsOption = None,
    gateway_id: Annotated[
        str | None, typer.Option("--id", help="This gateway's id; default: its credentials' name, or a random one.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Requests run at once; default: as many as do most here, which is measured."),
    ] = None,
    memory_mbytes: Annotated[
        float | None,
        typer.Option(
            min=1, max=MAX_MBYTES, help="MB that loaded slices may hold; default: half of what is free at the start."
        ),
    ] = None,
    accelerator: AcceleratorOption = AcceleratorName.cpu,
    pool: Annotated[
        str | None,
        typer.Option(
            help="Share requests with the other gateways of this pool. With accounts, its secret comes from the "
            "credentials, or MIDSTREAM_POOL_SECRET."
        ),
    ] = None,
    device_messages: Annotated[
        float, typer.Option(min=1, help="Messages that one device may send a second; beyond, it is refused.")
    ] = DEFAULT_RATES.messages_per_s,
    device_mbytes: Annotated[
        float, typer.Option(min=0.001, help="MB that one device may send a second; beyond, it is refused.")
    ] = DEFAULT_RATES.bytes_per_s / 1e6,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="PORT",
            help="Show metrics, health and a status page at this port of 127.0.0.1 (0: a free one), or at HOST:PORT; "
            "beyond this machine with a token, from --http-token-file or MIDSTREAM_HTTP_TOKEN.",
        ),
    ] = None,
    http_token_file: Annotated[Path | None, typer.Option(help="File with the token that --http asks for.")] = None,
    log_format: LogFormatOption = LogFormat.text,
    log_level: LogLevelOption = None,
    forecast_model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a network that midstream train-forecast has made; with --history it is trained on into it."
        ),
    ] = None,
    history: HistoryOption = None,
    history_mbytes: HistorySizeOption = None,
) -> None:
    """Serve the tails of bundles to devices; waits for the broker if it is not up yet."""
    set_up(log_level, log_format)
    from midstream.gateway import Gateway
    from midstream.gateway.web import read_token

    if http_token_file is not None and http is None:
        raise typer.BadParameter("--http-token-file goes with --http PORT")
    with Gateway(
        find_bundles(bundles),
        broker,
        gateway_id=gateway_id,
        workers=workers,
        memory_bytes=None if memory_mbytes is None else int(memory_mbytes * 1e6),
        accelerator=accelerator.value,
        credentials=credentials,
        pool=pool,
        rates=Rates(device_messages, device_mbytes * 1e6),
        forecast_model=forecast_model,
        http=http,
        http_token=None if http_token_file is None else read_token(http_token_file),
        history=history,
        history_bytes=history_bytes(history_mbytes),
    ) as serving:
        on_stop_signal(serving.stop)
        if serving.http_url is not None:
            tell(f"gateway {serving.gateway_id} shows its state at {serving.http_url}")
        if serving.wait_connected(2.0):
            tell(f"gateway {serving.gateway_id} is ready")
        elif not serving.given_up:
            tell(f"gateway {serving.gateway_id} waits for the broker: {serving.last_error}")
        serving.serve()


def history_bytes(mbytes: float | None) -> int | None:
    """How large a history may be; None where nobody says."""
    return None if mbytes is None else int(mbytes * 1e6)


def find_bundles(paths: list[Path]) -> list[Path]:
    """Bundles named, and bundles in folders named but hidden ones; raises BundleError where a folder has none."""
    from midstream.manifest import MANIFEST_FILE

    found = []
    for path in paths:
        inside = (
            [path] if (path / MANIFEST_FILE).exists() else sorted(p.parent for p in path.glob(f"[!.]*/{MANIFEST_FILE}"))
        )
        if not inside:
            raise BundleError(
                f"{path} is neither a bundle nor a folder of bundles; make one: midstream convert MODEL -o DIR"
            )
        found += inside
    return found
