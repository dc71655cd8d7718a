"""A plugin under check: what it declares, and what checks are made with, made once and kept."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec, UnknownKeyError, did_you_mean
from aion_core.data.files import samples_of
from aion_core.mock import draw, generator
from aion_core.observations import Observation
from aion_core.plugins import Failure, LoadedPlugin, Registry, import_object, load_registry
from aion_core.plugins.discovery import ENVIRONMENT, GROUP, selection
from aion_core.testing.elsewhere import Elsewhere, ask
from aion_core.testing.examples import Batch, plausible, spoilt
from aion_core.testing.reading import ReadBack, ReaderCase
from aion_core.testing.rules import NotApplicableError, Outcome, Scope, told
from aion_core.tokenizers import Tokenizer
from aion_core.tokenizers.base import build_tokenizer, is_fittable, tokenizer_class

#: Fields of the mock sky that are tried until a simulator sees one: it may lie outside of a survey's footprint.
SKIES = 30


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
    readers
        Names of the readers that are put to what simulators write; None: all. One that has a `ReaderContract` of its
        own, with real files, need not be among them.
    """

    examples: ClassVar[int] = 5
    fitting: ClassVar[int] = 3000
    objects: ClassVar[int] = 24
    readers: ClassVar[Collection[str] | None] = None

    def tokenizer(self, spec: ModalitySpec) -> Tokenizer:
        """Return a small tokenizer that can encode: fitted to examples, or an untrained network.

        Networks take the settings that their class names as `small`.
        """
        cls = tokenizer_class(spec)
        if is_fittable(spec):
            fitted: Any = build_tokenizer(spec)
            fitted.observe(self.observations(spec, fitted, self.fitting, generator("observations to fit to")))
            fitted.finish()
            return fitted
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
        return list(simulator.observe(draw(seed, 0, self.objects), folder, generator("simulation to check", seed)))


@dataclass(frozen=True)
class Simulated:
    """What a simulator wrote: the seed of the mock sky, the folder, and the files that it returned."""

    seed: int
    folder: Path
    files: Sequence[Path]


class Subject:
    """An installed plugin, by the name of its entry point.

    Raises
    ------
    UnknownKeyError
        If no distribution here has an entry point of that name.
    """

    def __init__(self, name: str, material: Material | None = None, together: Sequence[Subject] = ()) -> None:
        self.name, self.material, self.together = name, material or Material(), together
        points = entry_points(group=GROUP)
        found = [point for point in points if point.name == name]
        if not found:
            known = sorted({point.name for point in points})
            raise UnknownKeyError(
                f"No plugin {name!r} is installed.{did_you_mean(name, known)} "
                f"Installed: {', '.join(known) or 'none'}; install yours with `pip install -e FOLDER`."
            )
        chosen = selection()
        if chosen is not None and name not in chosen:
            raise UnknownKeyError(f"{ENVIRONMENT} leaves the plugin {name!r} out: unset it, or name the plugin in it.")
        self.points: list[EntryPoint] = found
        self.outcomes: dict[tuple[str, str], Outcome] = {}
        self._tokenizers: dict[str, Tokenizer | str] = {}
        self._tokens: dict[tuple[str, Batch], Tensor] = {}
        self._simulated: dict[str, Simulated | str] = {}
        self._back: dict[str, ReadBack] = {}
        self._cases: dict[str, ReaderCase] = {}

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
    def label(self) -> str:
        """Distribution and version."""
        dist = self.points[0].dist
        return f"{dist.name} {dist.version}" if dist else self.name

    @property
    def failures(self) -> list[Failure]:
        """What discovery has to say of this plugin."""
        return [failure for failure in self.registry.failures if self.name in failure.plugin.split(" and ")]

    def parts(self, scope: Scope) -> Mapping[str, ModalitySpec | ReaderSpec | SimulatorSpec]:
        """Return the modalities, readers or simulators of the plugin by name."""
        if self.plugin is None:
            return {}
        if scope in ("modality", "tokenizer"):
            return self.modalities
        if scope == "simulator":
            return {simulator.name: simulator for simulator in self.plugin.simulators}
        wanted = self.material.readers
        return {reader.name: reader for reader in self.plugin.readers if wanted is None or reader.name in wanted}

    @property
    def modalities(self) -> Mapping[str, ModalitySpec]:
        return {spec.key: spec for spec in self.plugin.modalities} if self.plugin else {}

    @cached_property
    def integers(self) -> frozenset[int]:
        """Every integer that is written in the plugin's source."""
        return integers_in(self.points[0].module)

    @cached_property
    def elsewhere(self) -> Elsewhere:
        """What another process finds of it; those that are checked together share one."""
        open_ = {s.name: s for s in self.together if s.name != self.name and "elsewhere" not in vars(s)}
        try:
            answers = ask([self, *open_.values()], self.folder / "together")
        except RuntimeError as error:  # one of them ends the process
            if not open_:
                return Elsewhere(ended=str(error))
            self.together = ()
            return self.elsewhere
        for name, other in open_.items():
            vars(other)["elsewhere"] = answers[name]
        return answers[self.name]

    @cached_property
    def gpu(self) -> torch.device | None:
        """The GPU that tokens are compared on, if there is one."""
        return torch.device("cuda") if torch.cuda.is_available() else None

    # --- tokenizers and what they are given

    def tokenizer(self, spec: ModalitySpec) -> Tokenizer:
        """Return the tokenizer that checks are made with; where there is none, no rule on it applies."""
        if spec.tokenizer is None:
            raise NotApplicableError("it declares no tokenizer: only stored tokens of it are used")
        made = self.try_tokenizer(spec)
        if isinstance(made, str):
            raise NotApplicableError("its tokenizer cannot be made")
        return made

    def like(self, spec: ModalitySpec) -> str:
        """Return the first key whose tokenizer is made in the same way: rules on it hold for both."""
        plain = type(self.material).tokenizer is Material.tokenizer
        if not plain or type(self.material).observations is not Material.observations:
            return spec.key
        return next(key for key, other in self.modalities.items() if _alike(other) == _alike(spec))

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
            spec, self.tokenizer(spec), max(batch.size, 4), generator("observations", batch.seed)
        )
        return spoilt(made[: batch.size], batch.faults, batch.seed)

    def encode(self, spec: ModalitySpec, batch: Batch) -> Tensor:
        """Return the tokens of a batch, encoded once for all rules."""
        place = (spec.key, batch)
        if place not in self._tokens:
            self._tokens[place] = self.tokenizer(spec).encode(self.observe(spec, batch))
        return self._tokens[place]

    # --- files

    def try_simulated(self, spec: SimulatorSpec) -> Simulated | str:
        """Return what a simulator wrote of the first of a few fields that it sees, or why it wrote nothing."""
        if spec.name not in self._simulated:
            self._simulated[spec.name] = self._simulate(spec)
        return self._simulated[spec.name]

    def _simulate(self, spec: SimulatorSpec) -> Simulated | str:
        for seed in range(SKIES):
            folder = self.folder / "simulated" / spec.name / str(seed)
            folder.mkdir(parents=True)
            try:
                files = self.material.simulate(spec, folder, seed)
            except Exception as error:
                return f"it raises {told(error)}"
            if files:
                return Simulated(seed, folder, files)
        return f"it writes nothing for {self.material.objects} objects in any of {SKIES} fields"

    def simulated(self, spec: SimulatorSpec) -> Simulated:
        made = self.try_simulated(spec)
        if isinstance(made, str):
            raise NotApplicableError("it writes no files")
        return made

    def read_back(self, spec: SimulatorSpec) -> ReadBack:
        """Return what the plugin's readers find in the files of a simulator."""
        if spec.name not in self._back:
            files = [Path(path) for path in self.simulated(spec).files]
            existing = [path for path in files if path.is_file()]
            self._back[spec.name] = ReadBack(existing, self.loaded.readers, self.registry)
        return self._back[spec.name]

    def case(self, spec: ReaderSpec) -> ReaderCase:
        """Return a reader with its files: simulated ones, and samples that are installed."""
        if spec.name not in self._cases:
            files: list[Path] = []
            options: dict[str, Any] = {}
            for simulator in self.loaded.simulators:
                if not isinstance(self.try_simulated(simulator), str):
                    back = self.read_back(simulator)
                    files += back.claimed.get(spec.name, [])[:2]
                    options |= dict(back.options.get(spec.name, {}))
            files += [path for path in samples_of(spec)[:2] if path not in files]
            self._cases[spec.name] = ReaderCase(spec, files, self.registry, self.folder / "read" / spec.name, options)
        if not self._cases[spec.name].files:
            raise NotApplicableError("no simulator of the plugin writes a file for it, and none of its samples is here")
        return self._cases[spec.name]

    @cached_property
    def folder(self) -> Path:
        """A folder of its own, which goes when the subject does."""
        self._temporary = tempfile.TemporaryDirectory(prefix="aion-check-", ignore_cleanup_errors=True)
        return Path(self._temporary.name)


def _alike(spec: ModalitySpec) -> dict[str, Any]:
    """Return what of a spec a tokenizer, and what it is given in checks, depends on."""
    names = {"kind", "units", "vocab_size", "shape", "order", "item_tokens", "tokenizer", "observation"}
    return spec.model_dump(include=names)


def integers_in(module: str) -> frozenset[int]:
    """Return every integer that is written in the source of the package that a module is in."""
    top = find_spec(module.partition(".")[0])
    folders = [Path(f) for f in (top.submodule_search_locations or ())] if top else []
    files = [path for folder in folders for path in folder.rglob("*.py")]
    if top and not folders and top.origin:
        files = [Path(top.origin)]
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in files)
    nodes = (node for tree in trees for node in ast.walk(tree))
    return frozenset(n.value for n in nodes if isinstance(n, ast.Constant) and type(n.value) is int)
