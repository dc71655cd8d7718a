"""What every tokenizer is: a spec bound to weights, that turns observations into codes and back.

A tokenizer's *artifact* (`aion_core.release.Artifact`: a configuration and tensors) is what is saved. Several
modalities may share one; then it is saved once, and each has its own fingerprint of what its own encoding reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy.typing as npt
import torch
from torch import Tensor, nn

from aion_core.contract import AionError, InputError, ModalitySpec, TokenSpace, fingerprint
from aion_core.hub import check_sha256, require, resolve
from aion_core.observations import Observation
from aion_core.plugins import Registry, import_object, load_registry
from aion_core.release import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    Artifact,
    codec_folder,
    codec_names,
    read_artifact,
    write_artifact,
)
from aion_core.tokenizers.precision import full_precision

#: Arithmetic of encoding: float32 is exact (the release's tokens), bfloat16 trades a share of the tokens for speed.
Precision = Literal["float32", "bfloat16"]


class Tokenizer(nn.Module, ABC):
    """Codes for one modality.

    A subclass takes the spec first and the keys of ``spec.tokenizer.config`` as keyword arguments, and provides
    `_encode`, `_decode`, `loss`, `encode_tensors`, `artifact` and `from_artifact`.

    Attributes
    ----------
    spec
        What is fixed about the modality.
    observation
        The class that it encodes.
    preprocessing_version
        Raised by hand when a change of the code changes what reaches the quantizer, and with it the fingerprint.
    precisions
        In which arithmetic the class can encode: float32 first.
    batch
        How many objects are encoded at a time, so that memory does not grow with the observation; None: all.
    small
        Settings for `build` that give a small network with the same tokens, for tests.
    """

    preprocessing_version: ClassVar[int] = 1
    observation: ClassVar[type[Observation]] = Observation
    precisions: ClassVar[tuple[Precision, ...]] = ("float32",)
    batch: int | None = None
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, spec: ModalitySpec) -> None:
        super().__init__()
        self.spec = spec
        self._precision: Precision = "float32"

    @property
    def precision(self) -> Precision:
        """Arithmetic of `encode`.

        It is no part of the fingerprint: both give codes of the same codebook, which agree but for those that lie at
        the border between two. Whoever writes tokens records it beside them.
        """
        return self._precision

    @precision.setter
    def precision(self, precision: Precision) -> None:
        if precision not in self.precisions:
            known = " or ".join(repr(p) for p in self.precisions)
            raise InputError(f"{self.spec.key} encodes in {known}, not in {precision!r}.")
        self._precision = precision

    def fast(self) -> Self:
        """Encode in bfloat16 from now on, where the class can; ``tokenizer.precision = "float32"`` goes back."""
        self.precision = self.precisions[-1]
        return self

    @torch.no_grad()
    def encode(self, obs: Observation) -> Tensor:
        """Return codes 0 … V−1, int64 ``[B, *shape]``; −1 throughout where an object has nothing valid.

        Runs in eval mode, on the tokenizer's device, and leaves the observation as it is. Codes of an object do not
        depend on the others in the batch, nor on an autocast or a rounding of matrix products that the caller set.

        Raises
        ------
        InputError
            If the observation is of another class, or in a unit that does not convert to the modality's.
        AionError
            If the tokenizer has not been fitted.
        """
        with _evaluating(self), full_precision(self.device):
            if self.batch is None or not isinstance(obs, self.observation) or len(obs) <= self.batch:
                return self._encode(self.accept(obs))
            parts = (obs[i : i + self.batch] for i in range(0, len(obs), self.batch))
            return torch.cat([self._encode(self.accept(part)) for part in parts])

    @torch.no_grad()
    def decode(self, tokens: Tensor | npt.ArrayLike, **context: Any) -> Observation:
        """Return what codes stand for; −1 gives NaN.

        Takes ``[B, *shape]``, or the same flattened to ``[B, n]`` (``[B]`` where there is one token), as a tensor or
        anything that `torch.as_tensor` takes.

        Raises
        ------
        InputError
            If the tokens have another shape, are not integers, or lie outside −1 … V−1.
        """
        with _evaluating(self), full_precision(self.device):
            return self._decode(self._check_tokens(tokens), **context)

    @abstractmethod
    def loss(self, *observations: Observation) -> dict[str, Tensor]:
        """Return the terms of the reconstruction loss by name, each averaged over the objects given."""

    @classmethod
    def build(cls, specs: Sequence[ModalitySpec], seed: int = 0, **config: Any) -> tuple[Self, ...]:
        """Return untrained tokenizers of several modalities that share one artifact, for training by gradients.

        Initial weights are a function of the seed and of each parameter's name; `config` overrides the settings that
        the specs declare. Bands and ranges are the union of those that the specs declare.

        Raises
        ------
        AionError
            If the class is not trained by gradients, or the specs do not fit together.
        """
        raise AionError(f"{cls.__name__} is fitted in one pass over the data, not trained by gradients.")

    def trainable_parameters(self, only_new: bool = False) -> dict[str, nn.Parameter]:
        """Return what an optimiser is to be given, by name; of a tokenizer that has grown, the new part on request.

        Training the new part alone leaves the tokens and fingerprints of everything older as they are.

        Raises
        ------
        AionError
            If only the new part is asked for, and nothing has been added.
        """
        if only_new:
            raise AionError(f"{self.spec.key} has nothing new to train alone: it has not been grown.")
        return dict(self.named_parameters())

    def reconstruct(self, obs: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Return the codes of an observation, its numbers, and what the codes decode to: the last two of one shape.

        What does not count (masked, missing) is NaN in either. Tokenizers whose decoding needs a context, or whose
        observations have more than one field, override this.
        """
        tokens, field = self.encode(obs), obs.batched[0]
        return tokens, getattr(self.accept(obs), field), getattr(self.decode(tokens), field)

    def bound(self, tokens: Tensor) -> Tensor | None:
        """Return how far what these codes decode to may be from what was encoded; infinite where nothing is promised.

        One number for each that `reconstruct` compares, in their unit. None, the default, promises nothing at all: the
        error of a network depends on its training. The conformance suite holds a tokenizer to it.
        """
        return None

    def code_vectors(self) -> Tensor | None:
        """Return where codes lie with respect to each other, numbers from 0 to 1 ``[codes, d]``; None: nowhere.

        Of a scalar that is its rank, of what a network has quantized the levels or signs. Codes that are near one
        another stand for nearly the same.
        """
        return None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides which codes this modality gets: class, preprocessing, settings, tensors."""
        kind = type(self)
        return fingerprint(
            f"{kind.__module__}:{kind.__qualname__}",
            self.preprocessing_version,
            self.settings(),
            [_hashable(name, tensor) for name, tensor in self.encode_tensors().items()],
        )

    def settings(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings that change codes."""
        return {}

    @abstractmethod
    def encode_tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors that encoding this modality reads (of shared ones, its own part only)."""

    @abstractmethod
    def artifact(self) -> Artifact:
        """Return what is to be saved."""

    @classmethod
    @abstractmethod
    def from_artifact(cls, spec: ModalitySpec, artifact: Artifact, sibling: Tokenizer | None = None) -> Self:
        """Return a tokenizer with the weights of an artifact.

        `sibling` is one of the same class that was made of the same artifact, for another modality: large modules
        may be taken from it instead of being built a second time.

        Raises
        ------
        InputError
            If the artifact does not fit the spec.
        """

    @property
    def codec(self) -> str:
        """Name of the tokenizer's folder in the release layout."""
        return codec_name(self.spec)

    @property
    def device(self) -> torch.device:
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``codecs/<name>/`` below a folder, in the layout of the release, whole or not at all."""
        write_artifact(codec_folder(Path(folder), self.codec), self.artifact())

    def accept(self, obs: Observation) -> Any:
        """Return an observation in the modality's unit and on the tokenizer's device."""
        if not isinstance(obs, self.observation):
            raise InputError(f"{self.spec.key} encodes {self.observation.__name__}, not {type(obs).__name__}.")
        return obs.in_unit(self.spec.units).to(self.device)

    @abstractmethod
    def _encode(self, obs: Any) -> Tensor: ...

    @abstractmethod
    def _decode(self, tokens: Tensor, **context: Any) -> Observation: ...

    def _check_tokens(self, given: Tensor | npt.ArrayLike) -> Tensor:
        spec = self.spec
        try:
            tokens = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{spec.key}: this is no array of tokens ({error}).") from None
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise InputError(f"{spec.key}: tokens are integers, not {tokens.dtype}.")
        tokens = tokens.to(self.device, torch.int64)
        shape = tuple(tokens.shape[1:])
        if spec.order == "masked":
            if tokens.ndim == 0 or shape not in (
                spec.shape,
                (spec.n_tokens,),
                () if spec.n_tokens == 1 else spec.shape,
            ):
                raise InputError(f"{spec.key}: tokens have shape {list(tokens.shape)}; expected [B, {_axes(spec)}].")
            tokens = tokens.reshape(len(tokens), *spec.shape)
        elif tokens.ndim != 2 or tokens.shape[1] > spec.n_tokens:
            raise InputError(f"{spec.key}: tokens have shape {list(tokens.shape)}; expected [B, n ≤ {spec.n_tokens}].")
        if tokens.numel():
            low, high = (int(v) for v in torch.aminmax(tokens))
            if low < -1 or high >= spec.vocab_size:
                raise InputError(
                    f"{spec.key}: tokens range over {low} … {high}; expected 0 … {spec.vocab_size - 1}, or −1 for "
                    "an object that has none."
                )
        return tokens


@runtime_checkable
class Fittable(Protocol):
    """A tokenizer that is fitted in one pass over the data, in any order and in parts."""

    def observe(self, obs: Observation) -> None:
        """Take observations into account."""

    def merge(self, other: Any) -> None:
        """Take into account what another one of the same modality has observed."""

    def finish(self) -> None:
        """Set the codebook from what was observed."""


def codec_name(spec: ModalitySpec) -> str:
    """Return the name of a modality's folder under ``codecs/``: the release's, or else its key."""
    return spec.upstream_codec or spec.key


def tokenizer_class(spec: ModalitySpec) -> type[Tokenizer]:
    """Return the class that a spec names; a spec without one, or one of another kind, is an `AionError`."""
    if spec.tokenizer is None:
        raise AionError(f"{spec.key} declares no tokenizer: only stored tokens of it can be used.")
    cls = import_object(spec.tokenizer.path)
    if not (isinstance(cls, type) and issubclass(cls, Tokenizer)):
        raise AionError(f"{spec.key}: {spec.tokenizer.path} is not a subclass of aion_core.tokenizers.Tokenizer.")
    return cls


def is_fittable(spec: ModalitySpec) -> bool:
    """Whether a modality's tokenizer is `Fittable`; one without a tokenizer is not."""
    return spec.tokenizer is not None and all(
        hasattr(tokenizer_class(spec), name) for name in ("observe", "merge", "finish")
    )


def build_tokenizer(spec: ModalitySpec) -> Tokenizer:
    """Return the tokenizer that a spec describes, before any weights."""
    cls = tokenizer_class(spec)
    config = spec.tokenizer.config if spec.tokenizer else {}
    try:
        return cls(spec, **config)
    except TypeError as error:
        raise AionError(f"{spec.key}: {cls.__name__} does not take the settings {config} ({error}).") from error


def load_tokenizer(
    key: str,
    weights: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    device: torch.device | str | None = None,
    registry: Registry | None = None,
) -> Tokenizer:
    """Return a tokenizer with its weights, ready to encode.

    Parameters
    ----------
    key
        Modality key, or the release's name for it.
    weights
        A folder or Hub repository in the release layout, which may hold this codec only; None: the weights that the
        plugin declares.
    revision, local_files_only
        See `aion_core.hub.resolve`.
    device
        Where the tokenizer is to work; what it encodes is moved there.
    registry
        Plugins to look the key up in; None: those installed.

    Raises
    ------
    AionError
        If the key is unknown, there are no weights, or they do not fit.
    """
    spec = (load_registry() if registry is None else registry).resolve(key)
    tokenizer_class(spec)
    declared = spec.tokenizer.weights if spec.tokenizer and weights is None else None
    if declared is not None:
        weights, revision = declared.repo, revision or declared.revision
    if weights is None:
        raise AionError(
            f"{spec.key} declares no default weights; give a folder or repository (weights=…), or fit it to data: "
            f"aion tokenizer train PATH --modalities {spec.key} --out DIR"
        )
    prefix = f"{declared.subfolder.strip('/')}/" if declared and declared.subfolder else ""
    name = codec_name(spec)
    wanted = [f"{prefix}{MANIFEST}", *(f"{prefix}codecs/{name}/{file}" for file in (CONFIG, WEIGHTS))]
    root = resolve(weights, wanted, revision=revision, local_files_only=local_files_only) / prefix
    if declared is not None and declared.sha256:
        check_sha256(require(find_codec(spec, root), WEIGHTS), declared.sha256)
    tokenizer = read_tokenizer(spec, root)
    if (root / MANIFEST).is_file():
        check_fingerprint(tokenizer, TokenSpace.from_file(root / MANIFEST), root)
    return tokenizer.to(device).eval()


def read_tokenizer(spec: ModalitySpec, root: Path, sibling: Tokenizer | None = None) -> Tokenizer:
    """Return the tokenizer of a spec with the weights under a release root; `sibling` has the same ones."""
    artifact = read_artifact(find_codec(spec, root))
    return tokenizer_class(spec).from_artifact(spec, artifact, sibling).eval()


def find_codec(spec: ModalitySpec, root: Path) -> Path:
    """Return the folder of a modality's tokenizer in a release; where it is missing, say what is there."""
    name = codec_name(spec)
    folder = codec_folder(root, name)
    if not folder.is_dir():
        found = ", ".join(codec_names(root)) or "no codec at all"
        raise InputError(f"{root} holds no codec {name!r} for {spec.key} (expected codecs/{name}/; found {found}).")
    return folder


def check_fingerprint(tokenizer: Tokenizer, space: TokenSpace, root: Path) -> None:
    """Raise unless a tokenizer is the one that the manifest beside it was written for."""
    key = tokenizer.spec.key
    if key not in space:
        return
    expected, found = space[key].fingerprint, tokenizer.fingerprint
    if expected is not None and expected != found:
        raise AionError(
            f"{codec_folder(root, tokenizer.codec)} is not what the manifest says: fingerprint {found[:12]} of {key}, "
            f"expected {expected[:12]}. Its files or its class were changed after the set was written; "
            "fetch or fit it again."
        )


def fitting_tensor(artifact: Artifact, name: str, shape: tuple[int, ...], key: str) -> Tensor:
    """Return a floating-point tensor of an artifact as float32; it must have this shape."""
    tensor = artifact.tensors.get(name)
    if tensor is None:
        raise InputError(f"The weights for {key} have no tensor {name} (found: {_some(artifact.tensors)}).")
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise InputError(f"The weights for {key} do not fit: {name} is {found}, expected floats {list(shape)}.")
    return tensor.to(torch.float32)


def check_names(artifact: Artifact, known: Collection[str], key: str, extra: tuple[str, ...] = ()) -> None:
    """Raise `InputError` if an artifact has tensors of other names (than those that begin with `extra`, too)."""
    strangers = [name for name in artifact.tensors if name not in known and not name.startswith(extra)]
    if strangers:
        raise InputError(f"The weights for {key} do not fit their configuration: {strangers[0]} belongs to nothing.")


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and afterwards back what was in training mode."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


def _hashable(name: str, tensor: Tensor) -> tuple[str, str, tuple[int, ...], bytes]:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data


def _axes(spec: ModalitySpec) -> str:
    return ", ".join(map(str, spec.shape))


def _some(names: Mapping[str, Any]) -> str:
    shown = list(names)[:4]
    return ", ".join(shown) + (", …" if len(names) > 4 else "") if shown else "none"
