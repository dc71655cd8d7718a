"""Survey files as a source of observations: read as often as needed, whatever few of them are damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path

from aion_core.contract import AionError, InputError
from aion_core.data.files import NotClaimedError, ReaderOptions, check_options, find_files, find_reader
from aion_core.data.reader import ObservationBatch, Reader
from aion_core.data.results import SkipReport
from aion_core.observations import Observation
from aion_core.plugins import Registry
from aion_core.plugins.blame import fault, plugin_at_fault

#: Objects read at a time where nothing says otherwise.
BATCH = 4096


class SurveyFiles:
    """The survey files below some paths.

    A file that is damaged, or that no installed reader reads, is left out if it was found in a folder (what was read of
    it before the damage counts), and an error if it was named. Of files that are read together, the first stands for
    all.

    Attributes
    ----------
    keys
        Modalities that are wanted; None: all.
    options
        Those of readers, by their name.
    seen
        Those that occurred in what was read so far.
    files
        Each file with its reader.
    skipped
        Files that no reader reads.
    damaged
        Files that could not be read to their end, and why.
    lost
        Objects by file that could not be read while others of their file could.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        registry: Registry,
        keys: Sequence[str] | None = None,
        options: ReaderOptions | None = None,
    ) -> None:
        self.keys = keys
        self.options = options or {}
        self.seen: set[str] = set()
        self.files: list[tuple[Path, Reader]] = []
        self.skipped: list[str] = []
        self.damaged: dict[str, str] = {}
        self.lost: dict[str, SkipReport] = {}
        self._named = {path for path in paths if path.is_file()}
        check_options(self.options, registry)
        leads: set[Path] = set()
        members: set[Path] = set()
        for path in find_files(paths):
            try:
                reader = find_reader(path, registry, options)[1]
                group = reader.group(path)
                if (lead := group[0]) not in leads:
                    leads.add(lead)
                    members.update(group)
                    self.files.append((lead, reader))
                    if path in self._named:
                        self._named.add(lead)
            except NotClaimedError:
                if path in self._named:
                    raise
                self.skipped.append(str(path))
            except (InputError, OSError) as error:
                self._leave_out(path, error)
            except AionError:
                raise
            except Exception as error:  # a plugin's defect in one file of many thousands must not end the run
                self._leave_out(path, _defect(path, error))
        self.skipped = [path for path in self.skipped if Path(path) not in members]
        if not self.files:
            self.check_any_read()
            raise AionError(
                f"No installed reader reads any file in {name_some(paths)}; `aion plugins` lists the readers."
            )

    def __len__(self) -> int:
        return len(self.files)

    def having(self, keys: Sequence[str]) -> SurveyFiles:
        """Return the same files for other modalities; what is damaged in them is told here as well."""
        other = copy(self)
        other.keys, other.seen = keys, set()
        return other

    def visit(self, visitor: Callable[[str, Observation], None], done: Callable[[], None] = lambda: None) -> None:
        """Show every observation of a wanted modality to a visitor; `done` is called after each file."""
        for index in range(len(self.files)):
            for batch in self.read(index):
                for key, (obs, _) in batch.data.items():
                    if len(obs) and (self.keys is None or key in self.keys):
                        self.seen.add(key)
                        visitor(key, obs)
            done()
        self.check_any_read()

    def read(self, index: int, batch_size: int = BATCH) -> Iterator[ObservationBatch]:
        """Yield the objects of one file, up to where it is damaged."""
        path, reader = self.files[index]
        lost = SkipReport()
        try:
            for batch in reader.wanting(self.keys).read(path, batch_size):
                lost += batch.skipped
                yield batch
        except (InputError, OSError) as error:
            self._leave_out(path, error)
        except AionError:
            raise
        except Exception as error:
            self._leave_out(path, _defect(path, error))
        if lost.count:
            self.lost[str(path)] = lost

    def _leave_out(self, path: Path, error: InputError | OSError) -> None:
        if path in self._named:
            raise error
        text = str(error)
        self.damaged[str(path)] = text if text.startswith(str(path)) else f"{path}: {text}"

    def check_any_read(self) -> None:
        """Raise if files are damaged, and none could be read to its end."""
        if self.damaged and all(str(path) in self.damaged for path, _ in self.files):
            more = f" ({len(self.damaged) - 1} more files cannot be read, too.)" if len(self.damaged) > 1 else ""
            raise InputError(next(iter(self.damaged.values())) + more)


def _defect(path: Path, error: Exception) -> InputError:
    """Return what a reader that raised what it should not is told as; the file may be as good as the others."""
    defect = InputError(f"{path}: {fault('its reader', plugin_at_fault(error) or '', error)}")
    defect.__cause__ = error
    return defect


def name_some(paths: Sequence[Path]) -> str:
    """Return the first few of some paths, for a sentence."""
    return ", ".join(map(str, paths[:3])) + (" …" if len(paths) > 3 else "")
