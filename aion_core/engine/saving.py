"""Checkpoints of several processes, written beside the training.

A checkpoint begins with a copy on the host of what each process holds; a thread of each writes it out while training
goes on. The loop asks at every step boundary, in the one small message that all processes exchange there anyway,
whether all have written; then the lead syncs the folder and gives it its name. So a checkpoint is there as a whole or
not at all, whatever is killed when, and no thread ever communicates. A save that fails leaves the checkpoints before
it as they are, and the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree

from torch import Tensor

from aion_core.contract import InputError
from aion_core.engine.checkpoint import Checkpoints
from aion_core.engine.distributed import World
from aion_core.engine.sharded import Parts, file_name, holders, part_files, staged, write_parts
from aion_core.files import publish


class Saver:
    """Writes the checkpoints of one run, one after the other. All processes call it at the same places.

    Parameters
    ----------
    checkpoints, keep
        Where they go, and how many stay.
    world
        The processes that share the tensors.

    Attributes
    ----------
    saved
        Step of the last checkpoint that is complete, or begun and not yet known to have failed.
    """

    def __init__(self, checkpoints: Checkpoints, world: World, keep: int) -> None:
        self.checkpoints, self.world, self.keep = checkpoints, world, keep
        latest = checkpoints.latest()
        self.saved = self._complete = latest.step if latest else 0
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._stems: tuple[str, ...] = ()

    def start(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], write_more: Callable[[Path], None]
    ) -> str | None:
        """Begin a checkpoint; return why the one before has failed, if it was under way until now and has.

        Parameters
        ----------
        tensors
            ``{stem of the files: {name: tensor}}``; copied before this returns.
        write_more
            Writes the other files of the checkpoint into its folder, on the lead and in its thread.
        """
        failure = self.finish()
        if self.world.lead:
            self.checkpoints.remove_torn()
        self.world.barrier()
        parts = {stem: staged(named, self.world.rank) for stem, named in tensors.items() if named}
        files = {stem: file_name(stem, self.world.rank, holders(tensors[stem])) for stem in parts}
        temporary = self._temporary(step)

        def write(named: Mapping[str, Parts]) -> None:
            temporary.mkdir(parents=True, exist_ok=True)
            for stem, mine in named.items():
                if mine:
                    write_parts(temporary / files[stem], mine)
            if self.world.lead:
                write_more(temporary)

        self.saved, self._stems = step, tuple(parts)
        self._writing = self._pool.submit(write, parts)
        return failure

    @property
    def pending(self) -> bool:
        """Whether a checkpoint is under way, or done and without its name yet; the same on all processes."""
        return self._writing is not None

    @property
    def busy(self) -> bool:
        """Whether this process is still writing."""
        return self._writing is not None and not self._writing.done()

    def finish(self) -> str | None:
        """Wait for what is under way; return why it failed, if it did."""
        if self._writing is None:
            return None
        self._writing.exception()
        return self.settle()

    def settle(self) -> str | None:
        """Complete a checkpoint that all processes have written; return why it failed, if it did."""
        if self._writing is None:
            return None
        reasons = self._agree(self._writing.exception())
        self._writing = None
        if not reasons:
            reasons = self._agree(self._publish() if self.world.lead else None)
        if reasons:
            failed, self.saved = self.saved, self._complete
            if self.world.lead:
                rmtree(self._temporary(failed), ignore_errors=True)
            untouched = f"; that of step {self._complete} is untouched" if self._complete else ""
            return f"the checkpoint of step {failed} could not be written ({reasons[0]}){untouched}"
        self._complete = self.saved
        return None

    def _agree(self, error: BaseException | None) -> list[str]:
        """Return what went wrong anywhere."""
        reason = None if error is None else getattr(error, "strerror", None) or str(error) or type(error).__name__
        return [found for found in self.world.gather(reason) if found is not None]

    def _publish(self) -> Exception | None:
        temporary = self._temporary(self.saved)
        try:
            for stem in self._stems:
                part_files(temporary, stem)  # that all have come here: the folder must be shared by all machines
            publish(temporary, self.checkpoints.path(self.saved))
            self.checkpoints.prune(self.keep)
        except (OSError, InputError) as error:
            return error
        return None

    def _temporary(self, step: int) -> Path:
        path = self.checkpoints.path(step)
        return path.with_name(f".{path.name}.tmp")
