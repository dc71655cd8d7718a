"""Rules on encoding, whatever the observations: Hypothesis draws them, and finds the simplest that breaks one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from torch import Tensor

from aion_core.contract import SEQUENCE_IDS, InputError, ModalitySpec
from aion_core.observations import Image, Observation, Scalar, ScalarField, SourceList, Spectrum
from aion_core.testing.examples import FAULTS, Batch, measured, nothing_valid, replaced
from aion_core.testing.rules import NotApplicableError, rule, told
from aion_core.testing.subject import Subject

Claim = Callable[[Batch], str | None]


@rule("tokenizer", "return int64 of shape [B, *spec.shape], also where B is 0 or 1")
def dtype_and_shape(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """Tokens are int64 of the declared shape, for no object, one and several."""

    def claim(batch: Batch) -> str | None:
        tokens, expected = subject.encode(spec, batch), (batch.size, *spec.shape)
        if not isinstance(tokens, Tensor):
            return f"encode returns {type(tokens).__name__}; expected a tensor"
        if tokens.dtype != torch.int64:
            return f"tokens are {tokens.dtype}; expected torch.int64"
        return f"tokens are {list(tokens.shape)}; expected {list(expected)}" if tokens.shape != expected else None

    yield from falsified(subject, claim, batches(faults=0), [Batch(0), Batch(1), Batch(4)])


@rule("tokenizer", "quantize to 0 … vocab_size − 1, and give −1 for an object as a whole or not at all")
def codes_in_range(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """Codes of measured objects are 0 … V−1."""
    yield from falsified(subject, lambda b: _valid(subject.encode(spec, b), spec, all_there=True), batches(faults=0))


@rule("tokenizer", "replace what is not finite, masked or without weight before quantizing; do not trust any pixel")
def survives_what_surveys_contain(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """NaN, infinities, extreme values, masks and bad inverse variances give codes 0 … V−1, or −1 throughout."""
    simple = [Batch(2, 0, (fault,)) for fault in FAULTS]
    yield from falsified(subject, lambda b: _valid(subject.encode(spec, b), spec), batches(faults=3), simple)


@rule("tokenizer", "give −1 throughout for an object that has no valid value, so that it is null in the token store")
def nothing_valid_is_minus_one(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """An object with nothing valid is −1 throughout, whatever the others in its batch have."""
    obs = subject.observe(spec, Batch(3))
    for way, empty in nothing_valid(obs).items():
        joined = type(obs).concatenate([empty[:2], obs[2:]])
        tokens = subject.tokenizer(spec).encode(joined)
        if bool((tokens[:2] != -1).any()):
            yield f"an object with {way} is encoded to {_shown(tokens[0])}; expected −1 throughout"
        if bool((tokens[2] == -1).all()):
            yield f"an object that has everything is −1 beside one with {way}"


@rule("tokenizer", "leave masked pixels, and those without inverse variance, out of every sum and out of the network")
def bad_pixels_do_not_count(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """What a pixel that is masked, or has no weight, holds does not matter (a mask is True where a pixel is bad)."""
    obs = subject.observe(spec, Batch(3, 5))
    tokenizer, tried = subject.tokenizer(spec), 0
    for fault, name in (("masked pixels", "mask"), ("inverse variances of 0", "ivar")):
        if getattr(obs, name, None) is None:
            continue
        tried += 1
        part = subject.observe(spec, Batch(3, 5, (fault,)))
        bad = part.mask if name == "mask" else part.ivar == 0  # type: ignore[attr-defined]
        expected = tokenizer.encode(part)
        for value in (float("nan"), 1234.5):
            other = replaced(part, **{n: getattr(part, n).masked_fill(bad, value) for n in measured(part)})
            if differing := int((tokenizer.encode(other) != expected).sum()):
                yield f"{differing} of {expected.numel()} tokens change when {fault} hold {value}"
                break
    if not tried:
        raise NotApplicableError("its observations have neither mask nor inverse variance")


@rule("tokenizer", "do not normalise over the batch, and let batch norms use their running statistics")
def independent_of_the_batch(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """An object has the same tokens alone, in another order, and beside any others."""

    def claim(batch: Batch) -> str | None:
        whole, obs = subject.encode(spec, batch), subject.observe(spec, batch)
        encode = subject.tokenizer(spec).encode
        turned = encode(obs[list(range(batch.size))[::-1]]).flip(0)
        if not torch.equal(turned, whole):
            return f"{int((turned != whole).sum())} of {whole.numel()} tokens change with the order of objects"
        for place in range(min(batch.size, 2)):
            alone = encode(obs[place])[0]
            if not torch.equal(alone, whole[place]):
                return f"{int((alone != whole[place]).sum())} tokens of object {place} change when it is alone"
        return None

    yield from falsified(subject, claim, batches(faults=1, least=1), [Batch(3)])


@rule("tokenizer", "draw no random numbers, keep no state between calls, and encode in eval mode")
def deterministic(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """The same observations give the same tokens again, also from a tokenizer left in training mode."""
    tokenizer, expected = subject.tokenizer(spec), subject.encode(spec, Batch(3, 1))
    state = torch.get_rng_state()
    if not torch.equal(tokenizer.encode(subject.observe(spec, Batch(3, 1))), expected):
        yield "a second call gives other tokens"
    if not torch.equal(torch.get_rng_state(), state):
        yield "encoding draws from torch's global random numbers"
    trained = copy.deepcopy(tokenizer).train()
    if not torch.equal(trained.encode(subject.observe(spec, Batch(3, 1))), expected):
        yield "tokens are others in training mode"
    if not trained.training:
        yield "encoding leaves a tokenizer that was in training mode in eval mode"


@rule("tokenizer", "work on copies: in-place operations (`x.clamp_`, `x[bad] = 0`) write to the caller's tensors")
def input_left_alone(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """The caller's observations are not written to."""

    def claim(batch: Batch) -> str | None:
        given, kept = subject.observe(spec, batch), subject.observe(spec, batch)
        subject.tokenizer(spec).encode(given)
        for name, value in vars(kept).items():
            now = getattr(given, name)
            same = torch.equal(_bits(value), _bits(now)) if isinstance(value, Tensor) else now == value
            if not same:
                return f"{name} is changed by encoding"
        return None

    yield from falsified(subject, claim, batches(faults=1, least=1), [Batch(2, 0, ("NaN", "values of 1e38"))])


@rule("tokenizer", "let `encode` of the base class check what it is given, and raise InputError for what does not fit")
def refuses_what_is_not_its_own(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """Observations of another class or unit, and tokens that are none, are refused by a sentence."""
    tokenizer, obs = subject.tokenizer(spec), subject.observe(spec, Batch(1))
    for stranger in _STRANGERS:
        if not isinstance(stranger, tokenizer.observation):
            yield from _refusal(
                partial(tokenizer.encode, stranger), f"an observation of class {type(stranger).__name__}"
            )
    if hasattr(obs, "unit"):
        unit = "kg" if spec.units != "kg" else "s"
        yield from _refusal(partial(tokenizer.encode, obs._with({"unit": unit})), f"a measurement in {unit}")
    tokens = subject.encode(spec, Batch(1))
    for what, wrong in {
        f"the code {spec.vocab_size}": tokens.clamp(min=spec.vocab_size),
        "the code −2": tokens.clamp(max=-2),
        "tokens that are no integers": tokens.float() + 0.5,
        "tokens of another shape": tokens.new_zeros(1, spec.n_tokens + 1),
    }.items():
        yield from _refusal(partial(tokenizer.decode, wrong), what)


# --- what claims are tried on


def batches(faults: int, least: int = 0) -> st.SearchStrategy[Batch]:
    """Return a strategy for batches of up to four objects with up to so many kinds of faults."""
    kinds = st.lists(st.sampled_from(tuple(FAULTS)), max_size=faults, unique=True).map(tuple)
    return st.builds(Batch, st.integers(least, 4), st.integers(0, 30), kinds)


def falsified(
    subject: Subject, claim: Claim, strategy: st.SearchStrategy[Batch], always: list[Batch] | None = None
) -> Iterator[str]:
    """Yield what a claim finds wrong with one of the given batches, or else with one that Hypothesis finds."""

    def test(batch: Batch) -> None:
        try:
            fault = claim(batch)
        except (NotApplicableError, KeyboardInterrupt):
            raise
        except Exception as error:
            fault = told(error)
        if fault:
            raise _FaultError(f"{batch}: {fault}")

    # No time limit, no files: what is drawn is a function of the test alone.
    quiet = settings(
        max_examples=subject.material.examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
    )
    try:
        for batch in always or ():
            test(batch)
        quiet(given(strategy)(test))()
    except _FaultError as fault:
        yield str(fault)


class _FaultError(Exception):
    """What a claim found."""


def _valid(tokens: Tensor, spec: ModalitySpec, all_there: bool = False) -> str | None:
    """Return what is wrong with the codes themselves."""
    flat = tokens.flatten(1)
    if not flat.numel():
        return None
    low, high = int(flat.min()), int(flat.max())
    if low < -1 or high >= spec.vocab_size:
        return f"codes range over {low} … {high}; expected 0 … {spec.vocab_size - 1}, or −1"
    there = flat >= 0
    if all_there and not bool(there[:, 0].all()):
        return "an object that has everything is −1"
    if spec.order == "causal":
        if bool((there[:, 1:] & ~there[:, :-1]).any()):
            return "there are codes behind a −1; −1 only fills the end of a list"
        if bool((there & (flat < SEQUENCE_IDS.first_code)).any()):
            return f"codes below {SEQUENCE_IDS.first_code} are reserved in a list"
        if bool((there.sum(dim=1) % spec.item_tokens).any()):
            return f"lists end within an item of {spec.item_tokens} tokens"
    elif bool((there.any(dim=1) & ~there.all(dim=1)).any()):
        return "some tokens of an object are −1, and others not"
    return None


def _bits(tensor: Tensor) -> Tensor:
    """Return a tensor that is equal to another where all bits are: NaN counts as itself."""
    return tensor.contiguous().view(torch.int32) if tensor.dtype == torch.float32 else tensor


def _shown(tokens: Tensor) -> str:
    values = tokens.flatten().tolist()
    return ", ".join(map(str, values[:4])) + (", …" if len(values) > 4 else "")


def _refusal(call: Callable[[], Any], what: str) -> Iterator[str]:
    """Yield why something that ought to be refused was not, or not by a sentence."""
    try:
        call()
    except InputError:
        return
    except Exception as error:
        yield f"{what} ends in {told(error)}; expected an InputError that says what was found and expected"
    else:
        yield f"{what} is accepted"


_STRANGERS: tuple[Observation, ...] = (
    Scalar([1.0]),
    Spectrum([[1.0, 2.0]], [4000.0, 4001.0]),
    ScalarField([[[0.5]]]),
    Image([[[[1.0]]]], ["no band"]),
    SourceList(*([[1.0]] for _ in range(5))),
)
