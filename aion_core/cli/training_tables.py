"""What ``aion train`` prints for people: the plan of a run, and its held-out losses."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aion_core.cli.console import print_table

if TYPE_CHECKING:
    from aion_core.train import HeldOut

GIB = 1 << 30
#: Predictions of one modality from another that are printed; more are in metrics.jsonl and on the page of curves.
PAIRS = 40


def print_held_out(held_out: tuple[HeldOut, ...]) -> None:
    """Print held-out losses beside their unconditional entropies."""
    if not held_out:
        print("No object is held out, so there is no held-out loss: raise data.split.fraction, or data.split.order.")
        return
    given = [h for h in held_out if h.given is not None]
    shown = held_out if len(given) <= PAIRS else [h for h in held_out if h.given is None]
    rows = [
        (
            h.target,
            "random masking" if h.given is None else ", ".join(h.given),
            f"{h.loss:.3f}",
            "" if h.entropy is None else f"{h.entropy:.3f}",
            "" if h.entropy is None else f"{h.entropy - h.loss:+.3f}",
            h.targets,
        )
        for h in shown
    ]
    columns = ("modality", "given", ">loss (nats)", ">entropy", ">gain", ">targets")
    print_table("Held-out loss, beside the entropy that ignoring the input would give", columns, rows)
    if len(shown) < len(held_out):
        print(f"{len(given)} predictions of one modality from others are in metrics.jsonl and on the page of curves.")


def print_plan(plan: dict[str, Any]) -> None:
    """Print what a run would do."""
    memory, compute, parallel = plan["memory"], plan["compute"], plan["parallel"]
    cut = f"sharding {parallel['sharding']}" if compute["gpus"] > 1 else "one GPU"
    replicas = f", {parallel['replicate']} replicas" if parallel["replicate"] > 1 else ""
    again = f", activation checkpointing {parallel['activation_checkpointing']}"
    batch = f"{plan['samples_per_step']:,}: {compute['gpus']} GPUs × {plan['samples_per_gpu']:,}"
    facts = [
        ("run folder", plan["folder"] + (f", continues at step {s:,}" if (s := plan["continues_at_step"]) else "")),
        ("parallel", f"{cut}{replicas}{again}, {plan['precision']}"),
        ("steps", f"{plan['steps']:,}"),
        ("samples per step", batch + (f" × {plan['accumulate']} passes" if plan["accumulate"] > 1 else "")),
        ("objects", f"{plan['training_objects']:,} to train on, {plan['held_out_objects']:,} held out"),
        ("FLOPs per sample", f"{compute['flops_per_sample'] / 1e12:.3g} TFLOP, forward and backward"),
        ("FLOPs of the run", f"{compute['flops_of_the_run'] / 1e18:.3g} EFLOP"),
        (f"at MFU {compute['mfu']:g}", f"of {compute['peak_flops_per_second'] / 1e12:.0f} TFLOP/s, {compute['gpu']}"),
        ("  seconds per step", f"{compute['seconds_per_step']:.3g}"),
        ("  samples per second", _rates(compute)),
        ("  duration", _duration(compute["seconds"])),
        ("  GPU-hours", f"{compute['gpu_hours']:,.4g}"),
    ]
    print_table("", ("plan", ""), facts)
    if begins := plan["begins_with"]:
        _print_beginning(begins, plan["parameters"]["total"])
    print_table("", ("parameters", ">"), [(part, f"{n:,}") for part, n in plan["parameters"].items()])
    print_table("", ("memory of one GPU, estimated", ">GiB"), [(k, f"{v / GIB:.2f}") for k, v in memory.items()])
    rows = [
        (", ".join(s["stores"]), f"{s['objects']:,}", f"{s['share']:.1%}", f"{s['epochs']:.3g}")
        for s in plan["sources"]
    ]
    print_table("", ("source", ">objects to train on", ">share of samples", ">times each object"), rows)
    by_key = [
        (
            key,
            f"{m['objects']:,}",
            f"{m['tokens']:,}",
            f"{m['inputs_per_sample']:.2f}",
            f"{m['targets_per_sample']:.2f}",
        )
        for key, m in plan["modalities"].items()
    ]
    columns = ("modality", ">objects", ">tokens", ">input tokens per sample", ">targets per sample")
    print_table("", columns, by_key)


def _print_beginning(begins: dict[str, Any], total: int) -> None:
    """Print what a run begins with, and what it appends."""
    facts = [
        ("weights", begins["from"]),
        ("moments of the optimiser", "those beside them; 0 for what is new" if begins["moments"] else "none: all at 0"),
        ("trained", f"{begins['trained']}: {begins['parameters_trained']:,} of {total:,} parameters"),
    ]
    print_table("", ("begins with", ""), facts)
    rows = [
        (key, f"{m['vocab_size']:,}", m["tokens"], f"{m['parameters']:,}", (m["fingerprint"] or "unknown")[:12])
        for key, m in begins["appended"].items()
    ]
    if rows:
        print_table("", ("appended", ">codes", ">tokens", ">parameters", "fingerprint"), rows)


def _rates(compute: dict[str, Any]) -> str:
    return (
        f"{compute['samples_per_second']:,.4g}, {compute['samples_per_second_per_gpu']:,.4g} on each GPU; "
        f"{compute['tokens_per_second'] / 1e6:,.4g} M tokens per second"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 86400:,.2f} days" if seconds >= 86400 else str(timedelta(seconds=round(seconds)))
