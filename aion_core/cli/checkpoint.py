"""Look into a checkpoint or a released model: its size, its training, and its token space.

PATH is a checkpoint, a model folder of ours or of the AION-1 release, or a run folder (its latest checkpoint). None of
the plugins that the model was trained with need to be installed; those that are missing are named. Modalities that were
appended later are listed with the model that they were appended to.

example:
  aion checkpoint inspect runs/first
  aion checkpoint inspect runs/first/checkpoints/step-00001000 --json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from aion_core.cli.checkpoint_export import add_export, run_export
from aion_core.cli.checkpoint_grow import add_grow, run_grow
from aion_core.cli.console import add_action, print_json, print_table
from aion_core.contract import TokenSpace, TokenSpaceError

if TYPE_CHECKING:
    from aion_core.contract import Slot
    from aion_core.plugins import Registry

#: Stem of the files that hold the weights.
WEIGHTS_STEM = "model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``aion checkpoint``."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = add_action(verbs, "inspect", "show what a checkpoint holds", __doc__)
    inspect.add_argument("path", type=Path, metavar="PATH")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    add_grow(verbs)
    add_export(verbs)


def run(args: argparse.Namespace) -> int:
    """Show, grow or export a checkpoint."""
    if args.action != "inspect":
        return run_grow(args) if args.action == "grow" else run_export(args)
    found = describe(args.path)
    if args.json:
        print_json(found)
        return 0
    told = ("path", "modalities", "config", "parameters", "missing", "grown")
    facts = {k: _listed(v) if isinstance(v, dict) else v for k, v in found.items() if k not in told}
    facts |= {k: _listed(found[k]) for k in ("parameters", "config")}
    facts["missing here"] = "; ".join(found["missing"]) or "nothing"
    print_table("", ("checkpoint", str(found["path"])), list(facts.items()))
    rows = [
        (m["key"], m["kind"], m["quantity"], m["vocab_size"], m["first_row"], m["shape"], m["plugin"], m["here"],
         m["fingerprint"][:12])
        for m in found["modalities"]
    ]  # fmt: skip
    columns = ("modality", "kind", "quantity", ">vocabulary", ">first row", "shape", "given by", "installed here")
    print_table("Token space", (*columns, "fingerprint"), rows)
    if found["grown"]:
        grown = [(", ".join(g["modalities"]), g["source"], g["sha256"][:12]) for g in found["grown"]]
        print_table("Grown", ("appended", "to the model of", "its weights' SHA-256"), grown)
    return 0


def _listed(values: dict[str, Any]) -> str:
    """Return names with their values, for one cell."""
    text = ", ".join(f"{k} {v:,}" if type(v) is int else f"{k} {v}" for k, v in values.items())
    return fill(text, 100, break_on_hyphens=False)


def describe(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, as JSON-serialisable facts; reads headers only, never the weights."""
    from aion_core.engine import Checkpoints
    from aion_core.engine.sharded import SavedTensors
    from aion_core.files import read_json
    from aion_core.model.files import read_space
    from aion_core.model.size import parameters_by_part
    from aion_core.plugins import load_registry
    from aion_core.release import CONFIG

    latest = Checkpoints(path / "checkpoints").latest()
    folder = latest.folder if latest else path
    space, registry = read_space(folder), load_registry()
    with SavedTensors(folder, WEIGHTS_STEM) as saved:  # one file, or one for each process that wrote it
        parameters = parameters_by_part(saved.shapes)
    state = read_json(folder / "state.json") if (folder / "state.json").exists() else {}
    here = {slot.key: _here(slot, registry) for slot in space.slots}
    return {
        "path": str(folder),
        "step": state.get("step"),
        "position": state.get("position"),
        "parameters": parameters,
        "config": {k: v for k, v in read_json(folder / CONFIG).items() if not k.startswith("domains_")},
        "modalities": [
            {
                "key": slot.key,
                "upstream_key": slot.spec.upstream_key,
                "kind": slot.spec.kind,
                "quantity": slot.spec.quantity,
                "vocab_size": slot.spec.vocab_size,
                "first_row": first_row,
                "shape": list(slot.spec.shape),
                "provenance_id": slot.spec.provenance.id,
                "fingerprint": slot.fingerprint or "unknown",
                "plugin": f"{slot.distribution or 'unknown'} {slot.version or ''}".strip(),
                "here": here[slot.key],
                "grown_from": slot.grown_from and slot.grown_from.model_dump(),
            }
            for slot, first_row in zip(space.slots, space.offsets, strict=False)
        ],
        "missing": list(dict.fromkeys(_missing(slot) for slot in space.slots if here[slot.key].startswith("no"))),
        "grown": _growths(space),
    }


def _here(slot: Slot, registry: Registry) -> str:
    """Return whether a modality's plugin is installed, and in which version or meaning if that is another."""
    if slot.key not in registry.modalities:
        return f"no: pip install {slot.distribution}" if slot.distribution else "no"
    version = registry.origin(slot.key).version
    try:
        registry.token_space([slot.key]).check_readable(TokenSpace(slots=(slot,)))
    except TokenSpaceError as error:
        return f"no, something else: {str(error).partition(';')[0]}"
    return "yes" if slot.version in (None, version) else f"yes, version {version}"


def _missing(slot: Slot) -> str:
    return f"pip install {slot.distribution}" if slot.distribution else f"whatever declares {slot.key}"


def _growths(space: TokenSpace) -> list[dict[str, Any]]:
    """Return what was appended to what, the first growth first."""
    origins = dict.fromkeys(slot.grown_from for slot in space.slots if slot.grown_from)
    return [
        {"modalities": [slot.key for slot in space.slots if slot.grown_from == origin], **origin.model_dump()}
        for origin in origins
    ]
