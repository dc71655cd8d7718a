"""Where weights come from: a folder, or a repository on the Hugging Face Hub. JSON and safetensors only.

A pickle runs whatever code its author put into it, so files of that kind are neither downloaded nor opened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from aion_core.contract import AionError, InputError

SUFFIXES = (".json", ".safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9_]")


def resolve(
    source: str | Path,
    patterns: Sequence[str],
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the local folder that holds a source's files; those of a repository are downloaded first.

    Parameters
    ----------
    source
        A folder, or the name of a repository (``owner/name``). Where both exist, the folder is meant.
    patterns
        Which files of a repository are wanted, as globs relative to its root; JSON and safetensors only.
    revision
        Branch, tag or commit of a repository; a folder has none.
    local_files_only
        Take a repository from the local cache and never touch the network.

    Raises
    ------
    AionError
        If there is no such folder or repository, or it cannot be reached.
    """
    if wrong := [p for p in patterns if not p.endswith(SUFFIXES)]:
        raise AionError(f"{wrong[0]!r} was asked of {source}; only {' and '.join(SUFFIXES)} files are ever read.")
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise AionError(f"{source} is a folder, which has no revision {revision!r}; leave the revision out.")
        return folder
    if folder.exists():
        _refuse_pickle(folder)
        raise AionError(f"{source} is a file; expected the folder that holds it, or a repository (owner/name).")
    if isinstance(source, Path) or not _REPOSITORY.fullmatch(source):
        raise AionError(f"{source}: there is no such folder, and it is not a repository's name (owner/name).")
    return _download(source, patterns, revision, local_files_only)


def require(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder, or say that it is missing, and whether a pickle lies in its place."""
    path = folder / name
    if path.is_file():
        return path
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; expected a folder with {name}.")
    for other in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            _refuse_pickle(other)
    raise InputError(f"{folder} has no {name}.")


def sha256(*paths: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal; of several, as if they were one."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raise `InputError` unless a file has the SHA-256 that was published for it."""
    found = sha256(path)
    if found != expected:
        raise InputError(
            f"{path} has SHA-256 {found[:12]}…, but {expected[:12]}… was published: it is damaged or another "
            "version; delete it and fetch it again."
        )


def _refuse_pickle(path: Path) -> None:
    if path.suffix in PICKLES:
        raise InputError(
            f"{path} may be a pickle, which can run any code and is never loaded; "
            "ask for a .safetensors file, or convert it where its origin is trusted."
        )


def _download(name: str, patterns: Sequence[str], revision: str | None, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    at = f" at revision {revision!r}" if revision else ""
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=local_files_only)
        )
    except LocalEntryNotFoundError as error:
        if local_files_only:
            raise AionError(
                f"{name}{at} is not in the local Hub cache; allow the network (local_files_only=False), or give a "
                "folder."
            ) from None
        raise AionError(f"{name}{at} is not a folder here, and the Hub cannot be reached ({_line(error)})") from error
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise AionError(f"{name}{at} cannot be fetched from the Hub: {_line(error)}") from error


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
