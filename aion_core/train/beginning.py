"""What a run begins with: initial weights, those of a trained model, or those with modalities appended.

A run that begins with a model (``model.start``), or that appends modalities (``model.grow``), has that model's token
space: its modalities in their order, whether or not the stores have all of them, then those that are appended. Any
other run has the token space of its stores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from aion_core.contract import AionError, Origin, Slot, TokenSpace, UnknownKeyError, did_you_mean
from aion_core.engine import Checkpoint, Checkpoints
from aion_core.engine.sharded import part_files
from aion_core.hub import resolve, sha256
from aion_core.model.files import read_description
from aion_core.release import CONFIG, LEFTOVERS, MANIFEST, WEIGHTS
from aion_core.train.config import TrainConfig

MODEL, OPTIMIZER = "model", "optimizer"


@dataclass(frozen=True)
class Beginning:
    """Where the weights of a run come from.

    Attributes
    ----------
    config
        The run's configuration, with the shape of that model where it begins with one.
    folder
        Where the weights are; None: they are initial ones.
    space
        What they were trained on, if the run goes by that; None: its token space is that of the stores.
    inputs, outputs
        Keys that can be given, and asked for; None: all.
    origin
        What is written down of what is appended; None: nothing is.
    resumed
        Whether the weights are the run's own.
    """

    config: TrainConfig
    folder: Path | None = None
    space: TokenSpace | None = None
    inputs: frozenset[str] | None = None
    outputs: frozenset[str] | None = None
    origin: Origin | None = None
    resumed: bool = False

    def run_space(self, found: TokenSpace, accept: Collection[str] = ()) -> TokenSpace:
        """Return the token space of a run on stores that have the modalities `found`."""
        if self.space is None:
            return found
        begun = _informed(self.space, found, accept, self.folder)
        new = self._appended(begun, found)
        space = begun.grow((found[key] for key in new), self.origin)
        if left := [key for key in found.keys if key not in space]:
            raise AionError(
                f"The stores have tokens of {', '.join(left)}, which the model of {self.folder} lacks: append "
                f"them with {' '.join(f'--grow {key}' for key in left)}, or leave them out of data.modalities."
            )
        self._check_sides(found)
        return space

    def new(self, space: TokenSpace) -> tuple[str, ...]:
        """Return the keys of the run's token space that the weights have nothing of."""
        return () if self.space is None else space.keys[len(self.space) :]

    def sides(self, new: Collection[str]) -> tuple[frozenset[str] | None, frozenset[str] | None]:
        """Return the modalities that can be given, and asked for, with what is appended; None: all."""
        if self.inputs is None or self.outputs is None:
            return None, None
        return self.inputs | set(new), self.outputs | set(new)

    def _appended(self, begun: TokenSpace, found: TokenSpace) -> list[str]:
        new = []
        for name in self.config.model.grow:
            if name in begun and self.resumed and begun[name].grown_from is not None:
                continue  # the run has done so already
            if name not in found and name not in begun:
                raise UnknownKeyError(
                    f"--grow {name}: no store has tokens of it; they have {', '.join(found.keys)}."
                    f"{did_you_mean(name, found.keys)} `aion tokenize` makes them."
                )
            new.append(found[name].key if name in found else begun[name].key)
        for key in new:
            if key in begun:
                raise AionError(f"--grow {key}: the model of {self.folder} has it already; leave it out.")
        return list(dict.fromkeys(new))

    def _check_sides(self, found: TokenSpace) -> None:
        for side, what in ((self.inputs, "asked for"), (self.outputs, "given")):
            for key in found.keys:
                if (
                    side is not None
                    and self.space is not None
                    and key in self.space
                    and self.space[key].key not in side
                ):
                    raise AionError(
                        f"{key} can only be {what} in the model of {self.folder}, and training does both; leave it out "
                        "of data.modalities."
                    )


def find_beginning(config: TrainConfig, latest: Checkpoint | None, digest: Callable[[Path], str]) -> Beginning:
    """Return what a run begins with, or goes on from; reads descriptions, no weights.

    Parameters
    ----------
    latest
        The run's own last checkpoint, if it has one: then `start` is not looked at again.
    digest
        Returns the SHA-256 of a folder's weights; called only if modalities are appended to them.
    """
    settings = config.model
    if latest is None and settings.start is None:
        if settings.grow or settings.freeze_old:
            asked = f"--grow {settings.grow[0]}" if settings.grow else "--freeze-old"
            raise AionError(
                f"{asked}: {config.run.folder} has no checkpoint, so there is no model to append to; name one with "
                "model.start."
            )
        return Beginning(config)
    folder = latest.folder if latest else _folder(str(settings.start))
    found = read_description(folder)
    if latest and not (settings.start or settings.grow or found.space.newest()):
        return Beginning(config, folder, resumed=True)
    if settings.start is not None:
        config = _shaped(config, found.config.model_dump(), folder)
    origin = None
    if any(key not in found.space for key in settings.grow):
        named = latest is None and not Path(str(settings.start)).expanduser().is_dir()  # on the Hub
        origin = Origin(source=str(settings.start if named else folder), sha256=digest(folder))
    return Beginning(config, folder, found.space, found.inputs, found.outputs, origin, latest is not None)


def weights_folder(path: Path) -> Path:
    """Return the folder of the latest checkpoint of a run, or the folder itself."""
    latest = Checkpoints(path / "checkpoints").latest()
    return latest.folder if latest else path


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of a model's weights; of several files, as if they were one."""
    return sha256(*part_files(folder, MODEL))


def has_moments(folder: Path) -> bool:
    """Whether moments of an optimiser lie beside the weights."""
    return any(folder.glob(f"{OPTIMIZER}*.safetensors"))


def _folder(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return weights_folder(path)
    return resolve(source, [CONFIG, WEIGHTS, MANIFEST, LEFTOVERS])


def _shaped(config: TrainConfig, shape: dict[str, object], folder: Path) -> TrainConfig:
    """Return a configuration with the shape of the model that it begins with, which it may not contradict."""
    for name, value in config.model.given.items():
        if shape[name] != value:
            raise AionError(
                f"model.{name} is {value}, but {shape[name]} in the model of {folder} that the run begins with "
                "(model.start); leave it out."
            )
    settings = config.model.model_copy(update={"preset": None, "config": shape})
    return config.model_copy(update={"model": settings})


def _informed(space: TokenSpace, found: TokenSpace, accept: Collection[str], folder: Path | None) -> TokenSpace:
    """Return the token space of trained weights, with the tokenizers of the stores where those were not known.

    Where another one is accepted, it takes the place of the one before, so that the manifest says so.
    """
    for slot in space.slots:
        if slot.key in found and (there := found[slot.key]).key != slot.key:
            raise AionError(
                f"What the stores call {there.key} is {slot.key} in {folder}, of which nothing else is known here; pip "
                f"install {there.distribution or 'the plugin that declares it'}, and both are known to be one."
            )
    try:
        space.check_readable(found, accept)
    except AionError as error:
        raise type(error)(f"{folder}: {error}") from None
    return TokenSpace(slots=tuple(_with_tokenizer(slot, found) for slot in space.slots))


def _with_tokenizer(slot: Slot, found: TokenSpace) -> Slot:
    if slot.key not in found or (new := found[slot.key]).fingerprint in (None, slot.fingerprint):
        return slot
    made_by = {"fingerprint": new.fingerprint, "distribution": new.distribution, "version": new.version}
    return slot.model_copy(update=made_by)
