"""A trained model on disk that modalities are appended to: weights, manifest, and the optimiser's moments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

from aion_core.contract import Origin, Slot
from aion_core.engine.sharded import part_files
from aion_core.files import replacing
from aion_core.model import AionModel
from aion_core.model.growth import belongs, grown
from aion_core.train.beginning import OPTIMIZER, has_moments, weights_folder, weights_sha256


def grow_folder(source: Path, slots: Sequence[Slot], out: Path, seed: int = 0) -> dict[str, Any]:
    """Write the model of a run, checkpoint, model folder or release with further modalities; return what was done.

    Moments of an optimiser are copied as they are: a run that begins with the new folder takes them up again, and
    begins those of the new parameters at step 0.
    """
    folder = weights_folder(source)
    model = AionModel.from_pretrained(folder)
    model.space.grow(slots)  # refused before the weights are read through
    origin = Origin(source=str(folder), sha256=weights_sha256(folder))
    larger = grown(model, slots, seed, origin)
    moments = part_files(folder, OPTIMIZER) if has_moments(folder) else []
    with replacing(out) as temporary:
        larger.save_pretrained(temporary)
        for path in moments:
            copyfile(path, temporary / path.name)
    sizes = {name: p.numel() for name, p in larger.named_parameters()}
    return {
        "from": str(folder),
        "out": str(out),
        "from_sha256": origin.sha256,
        "sha256": weights_sha256(out),
        "modalities": len(larger.space),
        "parameters_before": sum(p.numel() for p in model.parameters()),
        "parameters": sum(sizes.values()),
        "moments": bool(moments),
        "appended": {
            slot.key: {
                "vocab_size": slot.spec.vocab_size,
                "parameters": sum(n for name, n in sizes.items() if belongs(name, [slot.key])),
                "given_by": f"{slot.distribution or 'unknown'} {slot.version or ''}".strip(),
                "fingerprint": slot.fingerprint or "unknown",
            }
            for slot in slots
        },
    }
