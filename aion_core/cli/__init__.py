"""The command line: ``aion VERB``. Each verb is one module, imported when it is called.

A verb module has ``add_arguments(parser)`` and ``run(args)``. What a user can mend is raised as `AionError` and
printed as one sentence with exit code 2; so is what is a plugin's defect, with the plugin's name. Anything else is a
defect of ours and keeps its traceback, and so does everything where Python is started in development mode (-X dev).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from aion_core import __version__
from aion_core.contract import AionError, did_you_mean

#: verb -> one line of help; the module is ``aion_core.cli.<verb>``.
VERBS = {
    "plugins": "what is installed: surveys, modalities, readers, and what failed to load",
    "tokenizer": "fit tokenizers to data, and measure them",
    "show": "plot objects as they are read",
    "tokenize": "turn survey files into token stores",
    "store": "look into token stores",
    "train": "train a model on token stores",
    "checkpoint": "look into checkpoints, grow and export them",
    "mock": "write mock survey files of a sky whose truth is known",
    "demo": "the whole line on a mock sky and real files, with a report",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except AionError as error:
        print(f"aion: {error}", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except KeyboardInterrupt:
        print("aion: interrupted; finished files and checkpoints are kept", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"aion: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
    except Exception as error:
        if sys.flags.dev_mode or (told := _of_plugin(error)) is None:
            raise
        print(f"aion: {told}", file=sys.stderr)
    return 2


def _of_plugin(error: Exception) -> str | None:
    """Return the sentence for a plugin's defect; None for one of ours."""
    from aion_core.plugins.blame import fault, plugin_at_fault

    plugin = plugin_at_fault(error)
    return (
        None if plugin is None else f"{fault('code', plugin, error)}. `python -X dev -m aion_core.cli …` shows where."
    )


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"aion {__version__}")
        return 0
    verb = words[0]
    if verb not in VERBS:
        raise AionError(f"No command {verb!r}.{did_you_mean(verb, VERBS)} `aion --help` lists the commands.")
    module = import_module(f"aion_core.cli.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"aion {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    args = parser.parse_args(words[1:])
    code: int | None = module.run(args)
    return code or 0


def _usage() -> str:
    lines = "\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items())
    return (
        f"usage: aion VERB ...\n\n{lines}\n\n"
        "  aion VERB --help explains one verb with an example; --json, where it applies, prints for machines."
    )
