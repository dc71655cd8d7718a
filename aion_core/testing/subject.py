"""A plugin under check: what it declares, and what checks are made with, made once and kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec, UnknownKeyError, did_you_mean
from aion_core.mock import draw, generator
from aion_core.observations import Observation
from aion_core.plugins import Failure, LoadedPlugin, Registry, import_object, load_registry
from aion_core.plugins.discovery import GROUP
from aion_core.testing.examples import Batch, plausible, spoilt
from aion_core.testing.rules import NotApplicableError, Scope, told
from aion_core.tokenizers import Tokenizer
from aion_core.tokenizers.base import build_tokenizer, is_fittable, tokenizer_class


class Material:
    """What the checks are made with. A plugin overrides in its test class what does not fit it.

    Attributes
    ----------
    examples
        How many batches Hypothesis draws for a rule.
    fitting
        Objects that a tokenizer which is fitted to data is given.
    objects
        Objects of the mock sky that simulators observe.
    """

    examples: ClassVar[int] = 6
    fitting: ClassVar[int] = 3000
    objects: ClassVar[int] = 24

    def tokenizer(self, spec: ModalitySpec) -> Tokenizer:
        """Return a small tokenizer that can encode: fitted to examples, or an untrained network.

        Networks take the settings that their class names as `small`.
        """
        cls = tokenizer_class(spec)
        if is_fittable(spec):
            fitted: Any = build_tokenizer(spec)
            fitted.observe(self.observations(spec, fitted, self.fitting, generator("fit", spec.key)))
            fitted.finish()
            return fitted  # type: ignore[no-any-return]
        if cls.build.__func__ is Tokenizer.build.__func__:  # type: ignore[attr-defined]
            return build_tokenizer(spec)
        return cls.build([spec], seed=0, **cls.small)[0]

    def observations(
        self, spec: ModalitySpec, tokenizer: Tokenizer, size: int, rng: np.random.Generator
    ) -> Observation:
        """Return objects that have everything, in the modality's unit; of every kind but ``other`` they are known."""
        return plausible(spec, tokenizer, size, rng)

    def simulate(self, spec: SimulatorSpec, folder: Path, seed: int) -> list[Path]:
        """Return the files that a simulator writes into a folder for some objects of the mock sky."""
        simulator = import_object(spec.simulator)()
        return list(simulator.observe(draw(seed, 0, self.objects), folder, generator("check", spec.name, seed)))


class Subject:
    """An installed plugin, by the name of its entry point.

    Raises
    ------
    UnknownKeyError
        If no distribution here has an entry point of that name.
    """

    def __init__(self, name: str, material: Material | None = None) -> None:
        self.name, self.material = name, material or Material()
        points = entry_points(group=GROUP)
        found = [point for point in points if point.name == name]
        if not found:
            known = sorted({point.name for point in points})
            raise UnknownKeyError(
                f"No plugin {name!r} is installed.{did_you_mean(name, known)} "
                f"Installed: {', '.join(known) or 'none'}; install yours with `pip install -e FOLDER`."
            )
        self.points: list[EntryPoint] = found
        self._tokenizers: dict[str, Tokenizer | str] = {}
        self._tokens: dict[tuple[str, Batch], Tensor] = {}

    # --- what it declares

    @cached_property
    def registry(self) -> Registry:
        return load_registry()

    @property
    def plugin(self) -> LoadedPlugin | None:
        """What the hooks returned; None if it could not be loaded."""
        return next((plugin for plugin in self.registry.plugins if plugin.name == self.name), None)

    @property
    def loaded(self) -> LoadedPlugin:
        if self.plugin is None:
            raise NotApplicableError("the plugin cannot be loaded")
        return self.plugin

    @property
    def failures(self) -> list[Failure]:
        """What discovery has to say of this plugin."""
        return [failure for failure in self.registry.failures if self.name in failure.plugin.split(" and ")]

    def parts(self, scope: Scope) -> Mapping[str, ModalitySpec | ReaderSpec | SimulatorSpec]:
        """Return the modalities, readers or simulators of the plugin by name."""
        if self.plugin is None:
            return {}
        if scope == "modality":
            return {spec.key: spec for spec in self.plugin.modalities}
        parts = self.plugin.readers if scope == "reader" else self.plugin.simulators
        return {part.name: part for part in parts}

    # --- tokenizers and what they are given

    def tokenizer(self, spec: ModalitySpec) -> Tokenizer:
        """Return the tokenizer that checks are made with; where there is none, no rule on it applies."""
        if spec.tokenizer is None:
            raise NotApplicableError("it declares no tokenizer: only stored tokens of it are used")
        made = self.try_tokenizer(spec)
        if isinstance(made, str):
            raise NotApplicableError("its tokenizer cannot be made")
        return made

    def try_tokenizer(self, spec: ModalitySpec) -> Tokenizer | str:
        """Return the tokenizer, or why it cannot be made."""
        if spec.key not in self._tokenizers:
            try:
                self._tokenizers[spec.key] = self.material.tokenizer(spec).eval()
            except NotApplicableError:
                raise
            except Exception as error:
                self._tokenizers[spec.key] = told(error)
        return self._tokenizers[spec.key]

    def observe(self, spec: ModalitySpec, batch: Batch) -> Observation:
        """Return the observations of a batch, new ones each time."""
        made = self.material.observations(
            spec, self.tokenizer(spec), max(batch.size, 4), generator("observations", spec.key, batch.seed)
        )
        return spoilt(made[: batch.size], batch.faults, batch.seed)

    def encode(self, spec: ModalitySpec, batch: Batch) -> Tensor:
        """Return the tokens of a batch, encoded once for all rules."""
        place = (spec.key, batch)
        if place not in self._tokens:
            self._tokens[place] = self.tokenizer(spec).encode(self.observe(spec, batch))
        return self._tokens[place]

    # --- files

    @cached_property
    def folder(self) -> Path:
        """A folder of its own, which goes when the subject does."""
        self._temporary = tempfile.TemporaryDirectory(prefix="aion-check-", ignore_cleanup_errors=True)
        return Path(self._temporary.name)
