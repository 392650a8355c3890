"""What commands that plan are asked for alike: what to minimise, and what must hold."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from midstream.errors import InputError

if TYPE_CHECKING:
    from midstream.partitioning import Tariff


class ObjectiveName(StrEnum):
    """What to minimise."""

    latency = "latency"
    energy = "energy"
    throughput = "throughput"
    cost = "cost"


ObjectiveOption = Annotated[ObjectiveName, typer.Option(help="What to minimise; cost needs --tariff.")]
AgreementOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="1: lossless only; 0: any codec.")]
KeepInputOption = Annotated[
    bool, typer.Option("--keep-input-local", help="Neither the input nor what is linear in it may leave.")
]
QuantileOption = Annotated[
    float | None,
    typer.Option(help="Latencies, the deadline's too, that this share of inputs keeps to, 0.5 to 1, not the mean."),
]
MemoryOption = Annotated[
    float | None, typer.Option("--max-device-memory-mb", help="What the layers on the device may take, 10⁶ bytes.")
]
EnergyOption = Annotated[float | None, typer.Option(help="What the device may draw for one input, mJ.")]
TariffOption = Annotated[
    str | None,
    typer.Option(help="Prices of a gateway's hour, of 10⁹ bytes, and of a kilowatt-hour of the device: A,B,C."),
]


def tariff_of(text: str | None) -> Tariff | None:
    """The prices that were given; raises InputError where they are no three numbers, PlanError on wrong ones."""
    from midstream.partitioning import Tariff

    if text is None:
        return None
    try:
        hour, gigabyte, kilowatt_hour = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--tariff {text!r} is not three numbers; give the prices of a gateway's hour, of 10⁹ bytes and of a "
            "kilowatt-hour, as in 0.05,0.09,0.30"
        ) from None
    return Tariff(hour, gigabyte, kilowatt_hour)


def memory_bytes(megabytes: float | None) -> float | None:
    """What --max-device-memory-mb says, in bytes."""
    return None if megabytes is None else megabytes * 1e6
