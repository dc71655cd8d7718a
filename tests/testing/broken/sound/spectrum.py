"""A small network: means of good flux in wavelength bins, a linear layer, steps; and a linear layer back."""

from __future__ import annotations

import torch
from torch import nn

from aion_core.engine.initialise import keyed_generator
from aion_core.observations import Spectrum
from aion_core.release import Artifact
from aion_core.tokenizers import Tokenizer
from aion_core.tokenizers.base import fitting_tensor

BINS, CODES, LOW, HIGH = 8, 32, 4000.0, 9000.0


class SpectrumTokenizer(Tokenizer):
    observation = Spectrum

    def __init__(self, spec, step):
        super().__init__(spec)
        self.step = step
        self.encoder = nn.Parameter(torch.empty(BINS, BINS))
        self.decoder = nn.Parameter(torch.empty(BINS, BINS))

    @classmethod
    def build(cls, specs, seed=0, **config):
        made = [cls(spec, **spec.tokenizer.config, **config) for spec in specs]
        with torch.no_grad():
            for name, parameter in made[0].named_parameters():
                parameter.copy_(torch.eye(BINS) + 0.1 * torch.randn(BINS, BINS, generator=keyed_generator(name, seed)))
        return tuple(made)

    def loss(self, *observations):
        return {"nothing": sum(parameter.sum() for parameter in self.parameters()) * 0}

    def _encode(self, obs):
        means, good = self._means(obs)
        steps = torch.floor((means[:, None] * self.encoder).sum(-1) / self.step).clamp(-CODES // 2, CODES // 2 - 1)
        tokens = steps.long() + CODES // 2
        return tokens.masked_fill(~good.any(1)[:, None], -1)

    def _means(self, obs):
        flux, wave = obs.flux, obs.wavelength
        good = flux.isfinite() & (wave > LOW) & (wave < HIGH)
        if obs.mask is not None:
            good = good & ~obs.mask
        if obs.ivar is not None:
            good = good & (obs.ivar > 0) & obs.ivar.isfinite()
        flux = flux.clamp(-1e6, 1e6).masked_fill(~good, 0.0)
        place = ((wave - LOW) / (HIGH - LOW) * BINS).nan_to_num().long().clamp(0, BINS - 1)
        total = torch.zeros(len(flux), BINS, device=flux.device).scatter_add_(1, place, flux)
        count = torch.zeros(len(flux), BINS, device=flux.device).scatter_add_(1, place, good.float())
        return total / count.clamp(min=1), good

    def _decode(self, tokens):
        steps = (tokens - CODES // 2 + 0.5) * self.step
        flux = (steps[:, None] * self.decoder).sum(-1).masked_fill(tokens < 0, torch.nan)
        wave = LOW + (torch.arange(BINS, device=flux.device) + 0.5) * (HIGH - LOW) / BINS
        return Spectrum(flux, wave, unit=self.spec.units)

    def settings(self):
        return {"step": self.step}

    def encode_tensors(self):
        return {"encoder": self.encoder}

    def artifact(self):
        return Artifact({"step": self.step}, {"encoder": self.encoder.data, "decoder": self.decoder.data})

    @classmethod
    def from_artifact(cls, spec, artifact, sibling=None):
        made = cls(spec, float(artifact.config["step"]))
        for name in ("encoder", "decoder"):
            getattr(made, name).data = fitting_tensor(artifact, name, (BINS, BINS), spec.key).clone()
        return made
