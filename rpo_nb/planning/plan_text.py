"""A plan (`rpo_nb.planning.plan`) as text for a terminal."""

from __future__ import annotations

import math
from typing import Any

from rpo_nb.planning.costs import GIB, GPUS

DAY, YEAR = 24, 24 * 365  # hours
TOO_LONG = 14 * DAY  # more than this on a CPU is no plan


def size_text(number: float | None) -> str:
    """Bytes for people."""
    return (
        "?"
        if number is None
        else f"{number / GIB:.1f} GiB"
        if number >= GIB / 10
        else f"{number / 2**20:.0f} MiB"
    )


def count_text(number: float | None) -> str:
    """1234567 as 1.23M."""
    if number is None:
        return "?"
    scale, letter = next(
        ((s, c) for s, c in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= s), (1, "")
    )
    return f"{number / scale:.3g}{letter}"


def time_text(hours: float | None) -> str:
    """Hours for people: "12 min", "3.5 h", "4.0 days"."""
    if hours is None:
        return "?"
    if hours >= YEAR:
        return "over a year"
    if hours >= 2 * DAY:
        return f"{hours / DAY:,.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{math.ceil(60 * hours)} min"


def in_all(made: dict[str, Any]) -> str:
    """The sentence on the hours of all sizes and judges; where a CPU would take weeks, what to ask
    instead."""
    hours = made["hours"]
    if made["device"]["name"].startswith("CPU") and hours > TOO_LONG:
        return (
            f"Time in all: {time_text(hours)}, so not on this CPU. What a GPU takes: the same with "
            f"--gpu 'A100 80GB' (known are {', '.join(gpu.name for gpu in GPUS)}). What a CPU can "
            "do: --profile pocket."
        )
    return (
        f"Time in all: about {time_text(hours)} on one device (metrics, notebooks and learnt "
        "judges come on top)."
    )


def render(made: dict[str, Any]) -> str:
    """The plan as text for a terminal."""
    from tabulate import tabulate

    device = made["device"]
    header = [
        "size",
        "model",
        "parameters",
        "to train",
        "rows",
        "steps each",
        "training tokens",
        "generated",
        "peak memory",
        "time",
        "disk",
    ]
    sizes = [
        [
            of["size"],
            of["model"],
            count_text(of["parameters"]),
            f"{of['to train']} of {of['policies']}",
            f"{of['rows']:,}",
            f"{of['steps']:,}",
            ("" if of["measured"] else "<= ") + count_text(of["training tokens"]),
            "<= " + count_text(of["generated tokens"]),
            size_text(of["memory"]),
            time_text(of["hours"]),
            size_text(of["disk"]),
        ]
        for of in made["sizes"]
    ]
    asked = " + ".join(f"{n:,}" for n in made["verdicts"].values())
    hours = made["judge_hours"]
    judges = ", ".join(
        name + (f" ({time_text(hours[name])})" if name in hours else "") for name in made["judges"]
    )
    lines = [
        f"Plan of profile {made['profile']} on {device['name']}: {device['bf16'] / 1e12:.3g} "
        "TFLOP/s in bf16, "
        f"{device['fp32'] / 1e12:.3g} in float32 ({device['source']}), "
        f"{size_text(device['memory'])}",
        "",
        tabulate(sizes, header),
        "",
        f"Verdicts of each judge (Table III + IV, both orders): {asked}. Judges: {judges}.",
    ]
    if made["needs"]:
        rows = [
            [
                need["name"],
                need["purpose"],
                need["where"],
                "" if need["bytes"] == 0 else size_text(need["bytes"]),
                "yes" if need["gated"] else "",
            ]
            for need in made["needs"]
        ]
        lines += ["", tabulate(rows, ["needs", "for", "where", "download", "gated"])]
    lines += [
        "",
        *(
            f"Disk of {disk['holds']}: {size_text(disk['need'])} needed, "
            f"{size_text(disk['free'])} free."
            for disk in made["disks"]
        ),
        in_all(made),
        "",
        *made["notes"],
    ]
    lines += (
        ["", "Before it can start:", *(f"- {problem}" for problem in made["problems"])]
        if made["problems"]
        else []
    )
    return "\n".join([*lines, "", "Not ready." if made["problems"] else "Ready."])
