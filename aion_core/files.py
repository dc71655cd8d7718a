"""Writing files so that nothing half-written is ever seen, and reading them with errors that say what is wrong.

Imports nothing of ours but the contract's errors; torch and safetensors on use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from aion_core.contract import AionError, InputError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is synced and renamed to `path`, else removed.

    Works for a file or a folder that the caller creates under the temporary name. An existing folder of that name
    is replaced as a whole. What a killed process left behind is settled first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, aside = path.with_name(f".{path.name}.{os.getpid()}.tmp"), path.with_name(f".{path.name}.old")
    _settle(path, temporary, aside)  # after a process that was killed; its number may be ours, as in containers
    try:
        yield temporary
        publish(temporary, path)
    finally:
        _settle(path, temporary, aside)


def publish(temporary: Path, path: Path) -> None:
    """Sync a file, or a folder with all that is in it, and give it its name; an existing one is replaced."""
    aside = path.with_name(f".{path.name}.old")
    if temporary.is_dir():
        for inner in sorted(temporary.rglob("*")):
            _sync(inner)
        if path.is_dir():
            path.rename(aside)
        temporary.rename(path)
    else:
        _sync(temporary)
        temporary.replace(path)
    _sync(path.parent)


def _settle(path: Path, temporary: Path, aside: Path) -> None:
    """Remove the temporary, and the folder that was set aside, which comes back if nothing took its place."""
    _remove(temporary)
    if aside.exists() and not path.exists():
        aside.rename(path)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document; a missing or damaged one is an `InputError`."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not a readable JSON file ({error}).") from None


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors, whole or not at all; `metadata` goes into the header."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(contiguous, temporary, metadata=dict(metadata) if metadata else None)  # {} spoils the header
        except SafetensorError as error:  # a full disk, say
            raise AionError(f"{path.name} could not be written ({str(error).rpartition('I/O error: ')[2]}).") from error
        temporary.chmod(mode)  # safetensors shuts out all other users, whatever the umask


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header's metadata; a file that is not whole is an `InputError`."""
    with open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Open a file of tensors to read some of them; one that is not whole is an `InputError`."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise InputError(f"{path} is not a .safetensors file; weights in other formats are never loaded.")
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}).") from None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors, from its header alone."""
    with open_safetensors(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
