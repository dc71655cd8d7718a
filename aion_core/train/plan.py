"""What a run would do, told before it does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aion_core.model.flops import training_flops

if TYPE_CHECKING:
    from aion_core.train.trainer import Trainer


def plan(trainer: Trainer) -> dict[str, Any]:
    """Return the plan of a run as JSON-serialisable facts."""
    config = trainer.config
    samples = config.data.batch_size * config.data.accumulate
    train, held_out = (sum(len(rows) for _, rows in side) for side in (trainer.data.train, trainer.data.validation))
    parameters = sum(p.numel() for p in trainer.model.parameters())
    masking = config.masking
    flops = training_flops(trainer.model.config, masking.input_budget, masking.target_budget)
    return {
        "run folder": str(trainer.folder),
        "device": str(trainer.device),
        "precision": config.run.precision,
        "parameters": parameters,
        # Weights, gradients and the two moments of AdamW, in float32; activations come on top.
        "bytes of weights, gradients and optimiser": 16 * parameters,
        "modalities": ", ".join(trainer.data.space.keys),
        "training objects": train,
        "held-out objects": held_out,
        "samples per step": samples,
        "steps": config.optimizer.steps,
        "continues at step": trainer.step,
        "times each training object": round(samples * config.optimizer.steps / max(1, train), 3),
        "TFLOP per sample (heads aside)": flops / 1e12,
        "PFLOP of the run": flops * samples * config.optimizer.steps / 1e15,
    }
