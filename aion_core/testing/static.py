"""Rules on what a plugin declares: nothing is encoded for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec
from aion_core.data.reader import Reader
from aion_core.observations import Observation
from aion_core.plugins import Failure, import_object
from aion_core.testing.elsewhere import found_elsewhere
from aion_core.testing.rules import NotApplicableError, rule
from aion_core.testing.subject import Subject
from aion_core.tokenizers.base import tokenizer_class


@rule("plugin", "mend what is named; `aion plugins new NAME --kind KIND` writes a module that works, to compare with")
def imports(subject: Subject, _: None) -> Iterator[str]:
    """The module imports, its api_version is known to the core, and its hooks return lists of specs."""
    for failure in subject.failures:
        if failure.stage in ("import", "api_version", "hook"):
            yield f"{failure.stage}: {failure.reason}"


@rule("plugin", "let every key, reader and simulator begin with the name of the entry point and an underscore")
def prefix(subject: Subject, _: None) -> Iterator[str]:
    """Keys and the names of readers and simulators begin with the plugin's name."""
    yield from (failure.reason for failure in subject.failures if _of_prefix(failure))


@rule("plugin", "declare valid specs, and let readers and simulators name modalities that some plugin declares")
def declarations(subject: Subject, _: None) -> Iterator[str]:
    """Specs are valid as they stand, and every modality that a reader or simulator names is declared."""
    for failure in subject.failures:
        if failure.stage == "declaration" and not _of_prefix(failure):
            yield failure.reason


@rule("plugin", "choose other names; another provenance ID comes from `aion_core.contract.provenance_id(URI)`")
def unique(subject: Subject, _: None) -> Iterator[str]:
    """Keys, upstream keys, provenance IDs and names are claimed by nobody else that is installed."""
    yield from (str(failure) for failure in subject.failures if failure.stage == "conflict")
    if len(subject.points) > 1:
        names = ", ".join(point.dist.name if point.dist else "unknown" for point in subject.points)
        yield f"several distributions have an entry point called {subject.name!r}: {names}"


@rule(
    "plugin", 'state name, version and `dependencies = ["aion-core"]` in pyproject.toml, and install the plugin again'
)
def distribution(subject: Subject, _: None) -> Iterator[str]:
    """The installed distribution has a name and a version, requires the core, and carries the module it points to."""
    point = subject.points[0]
    dist = point.dist
    if dist is None or not dist.metadata["Name"] or not dist.metadata["Version"]:
        yield f"the distribution of the entry point {point.value!r} has no name or no version"
        return
    required = [r.replace("_", "-").lower() for r in dist.requires or ()]
    if not any(r.startswith("aion-core") for r in required):
        yield f"{dist.name} does not require aion-core (it requires {', '.join(required) or 'nothing'})"
    top = point.module.partition(".")[0]
    files = [file.parts[0].removesuffix(".py") for file in dist.files or () if file.suffix == ".py"]
    editable = any(name.startswith("_") or name == "__editable__" for name in files)
    if files and top not in files and not editable:
        yield f"{dist.name} does not contain the package {top}, to which its entry point leads"


@rule("plugin", "correct the import string, or let the class inherit from the base class that is named")
def import_strings(subject: Subject, _: None) -> Iterator[str]:
    """Every import string leads to a class of the right kind."""
    for spec in subject.loaded.modalities:
        if spec.tokenizer is not None:
            yield from _fault(spec.key, partial(tokenizer_class, spec))
        if spec.observation is not None:
            yield from _fault(spec.key, partial(_subclass, spec.observation, Observation))
    for reader in subject.loaded.readers:
        yield from _fault(reader.name, partial(_subclass, reader.reader, Reader))
    for simulator in subject.loaded.simulators:
        yield from _fault(simulator.name, partial(_observes, simulator))


@rule("plugin", "build specs from constants: no time, no random numbers, no order of a set, no environment")
def same_declarations(subject: Subject, _: None) -> Iterator[str]:
    """Hooks return the same when they are called again, here and in another process."""
    elsewhere = found_elsewhere(subject).declarations
    again = _declared(subject)
    for name, here in _declared(subject).items():
        if again.get(name) != here:
            yield f"{name} is declared otherwise by a second call"
        elif elsewhere.get(name) != here:
            yield f"{name} is declared otherwise in another process"
    yield from (f"{name} is declared in another process only" for name in elsewhere.keys() - again.keys())


@rule("plugin", "name heavy code by import strings, and import inside the functions that need it")
def light_import(subject: Subject, _: None) -> Iterator[str]:
    """Importing the plugin and calling its hooks brings in neither torch nor numpy, astropy or the like."""
    yield from (f"importing {subject.points[0].value} imports {name}" for name in found_elsewhere(subject).heavy)


@rule("plugin", "declare what is needed in the plugin itself; it must be usable where no other one is installed")
def stands_alone(subject: Subject, _: None) -> Iterator[str]:
    """The plugin loads without a fault where it is the only one."""
    if subject.elsewhere.ended:
        yield subject.elsewhere.ended
    yield from subject.elsewhere.failures


@rule("modality", "keep specs to what JSON holds: finite numbers, strings, lists, dicts with string keys")
def round_trip(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """The spec comes back from JSON as it was."""
    back = type(spec).model_validate_json(spec.model_dump_json())
    for name in type(spec).model_fields:
        here, there = getattr(spec, name), getattr(back, name)
        if here != there:
            yield f"{name} is {here!r}, and comes back as {there!r}"


@rule("modality", "write the number that `provenance_id(URI)` gives into the source; it may never change again")
def provenance_is_written_out(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """The provenance ID stands as a number in the plugin's source, where no edit of a name can change it."""
    if spec.provenance.id not in subject.integers:
        yield f"the provenance ID {spec.provenance.id} is computed: no file of the plugin has this number in it"


@rule(
    "modality", "use a unit that astropy parses and words of the IVOA's UCD list (https://www.ivoa.net/documents/UCD1+)"
)
def unit_and_quantity(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """The unit is one that astropy knows, the quantity one that the IVOA knows."""
    from astropy.io.votable.ucd import parse_ucd
    from astropy.units import Unit

    for name, value, parse in (
        ("unit", spec.units, Unit),
        ("quantity", spec.quantity, lambda ucd: parse_ucd(ucd, check_controlled_vocabulary=True)),
    ):
        try:
            parse(value)
        except ValueError as error:
            yield f"the {name} {value!r} is not known: {' '.join(str(error).split())[:200]}"


def _of_prefix(failure: Failure) -> bool:
    return failure.stage == "declaration" and "begin with the plugin's name" in failure.reason


def _fault(name: str, resolve: Callable[[], object]) -> Iterator[str]:
    """Yield why an import string does not resolve."""
    try:
        resolve()
    except Exception as error:
        yield f"{name}: {' '.join(str(error).split())}"


def _subclass(path: str, base: type) -> None:
    cls = import_object(path)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(f"{path} is not a subclass of {base.__module__}.{base.__name__}.")


def _observes(spec: SimulatorSpec) -> None:
    cls = import_object(spec.simulator)
    if not (isinstance(cls, type) and callable(getattr(cls, "observe", None))):
        raise TypeError(f"{spec.simulator} is no class with a method `observe(objects, folder, rng)`.")


def _declared(subject: Subject) -> dict[str, str]:
    """Return all specs as JSON, by name, from a new call of the hooks."""
    from aion_core.plugins import load_registry

    plugin = next((p for p in load_registry(subject.points).plugins if p.name == subject.name), None)
    if plugin is None:
        raise NotApplicableError("the plugin cannot be loaded")
    parts: list[ModalitySpec | ReaderSpec | SimulatorSpec] = [*plugin.modalities, *plugin.readers, *plugin.simulators]
    return {f"{type(p).__name__} {getattr(p, 'key', getattr(p, 'name', ''))}": p.model_dump_json() for p in parts}
