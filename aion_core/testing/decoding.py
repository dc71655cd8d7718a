"""Rules on the codebook and on decoding: what codes there are, what they stand for, and how near that is."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from aion_core.contract import SEQUENCE_IDS, ModalitySpec
from aion_core.observations import Observation
from aion_core.testing.behaviour import batches, falsified
from aion_core.testing.examples import Batch, measured
from aion_core.testing.rules import NotApplicableError, rule, told
from aion_core.testing.subject import Subject

#: Of float32: what arithmetic may add to the declared bound, as a share of the value.
ROUNDING = 1e-5


@rule("tokenizer", "let the class take the spec and its config; a network also has `build`, and names `small` settings")
def tokenizer_is_made(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """The tokenizer can be made from the spec, and is bound to it."""
    if spec.tokenizer is None:
        raise NotApplicableError("it declares no tokenizer: only stored tokens of it are used")
    made = subject.try_tokenizer(spec)
    if isinstance(made, str):
        yield f"it cannot be made: {made}"
    elif made.spec != spec:
        yield f"its spec is not the one that was declared, but of {made.spec.key}"


@rule("tokenizer", "declare as vocab_size the number of codes that the quantizer has, and as shape its grid of tokens")
def every_code_decodes(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """Each code 0 … V−1 decodes, at any place of the declared shape, to a measurement of the declared class."""
    tokenizer, first = subject.tokenizer(spec), SEQUENCE_IDS.first_code if spec.order == "causal" else 0
    codes = torch.arange(first, spec.vocab_size)
    few = codes if spec.n_tokens == 1 else torch.cat([codes[:3], codes[-3:]])
    tokens = few.reshape(-1, *(1 for _ in spec.shape)).expand(-1, *spec.shape)
    decoded = tokenizer.decode(tokens)
    if not isinstance(decoded, tokenizer.observation):
        yield f"decode returns {type(decoded).__name__}; expected {tokenizer.observation.__name__}"
    elif len(decoded) != len(tokens):
        yield f"{len(tokens)} objects decode to {len(decoded)}"


@rule("tokenizer", "decode codes to finite values of the observation's class, and −1 to NaN")
def decodes(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """What is encoded decodes to finite values, −1 to NaN, flattened tokens to the same."""

    def claim(batch: Batch) -> str | None:
        tokenizer, tokens = subject.tokenizer(spec), subject.encode(spec, batch)
        decoded = tokenizer.decode(tokens)
        if not isinstance(decoded, tokenizer.observation):
            return f"decode returns {type(decoded).__name__}; expected {tokenizer.observation.__name__}"
        if len(decoded) != batch.size:
            return f"{batch.size} objects decode to {len(decoded)}"
        if not _same(decoded, tokenizer.decode(tokens.flatten(1))):
            return "tokens that are flattened to [B, n] decode to something else"
        return _finite(decoded, tokens) if batch.size else None

    yield from falsified(subject, claim, batches(faults=0), [Batch(0), Batch(1), Batch(3)])
    tokens = subject.encode(spec, Batch(2))
    absent = subject.tokenizer(spec).decode(torch.cat([tokens[:1], torch.full_like(tokens[:1], -1)]))
    if any(bool(getattr(absent, name)[1].isfinite().any()) for name in measured(absent)):
        yield "an object that is −1 throughout decodes to numbers; expected NaN"


@rule("tokenizer", "let `decode` return what `encode` takes: same class, units, bands, size")
def takes_back_what_it_decodes(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """What tokens decode to can be encoded again."""
    tokenizer, tokens = subject.tokenizer(spec), subject.encode(spec, Batch(3))
    try:
        again = tokenizer.encode(tokenizer.decode(tokens))
    except Exception as error:
        yield f"it is refused: {told(error)}"
        return
    if again.shape != tokens.shape or bool((again.flatten(1)[:, 0] < 0).any()):
        yield f"it is encoded to tokens {list(again.shape)}, of which some are −1; expected codes {list(tokens.shape)}"


@rule(
    "tokenizer",
    "decode to the middle of what a code stands for, in the spec's unit; or promise less in `bound`",
)
def within_its_bound(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """What is decoded is as near to what was encoded as the tokenizer's `bound` promises."""
    promised = subject.tokenizer(spec).bound(subject.encode(spec, Batch(4)))
    if promised is None:
        raise NotApplicableError("its tokenizer promises no bound (`bound` returns None), as networks do not")
    if not bool(promised.isfinite().any()):
        yield "the promise is infinite for every code of four objects, and so none at all"

    def claim(batch: Batch) -> str | None:
        tokenizer = subject.tokenizer(spec)
        tokens, values, decoded = tokenizer.reconstruct(subject.observe(spec, batch))
        bound = tokenizer.bound(tokens)
        assert bound is not None
        return _beyond(values, decoded, bound.reshape(values.shape))

    yield from falsified(subject, claim, batches(faults=0, least=1), [Batch(4)])


def _beyond(values: Tensor, decoded: Tensor, bound: Tensor) -> str | None:
    error = (values - decoded).abs()
    wrong = error > bound + ROUNDING * values.abs()
    if not bool(wrong.any()):
        return None
    at = int(wrong.flatten().nonzero()[0, 0])
    value, found, most = (float(t.flatten()[at]) for t in (values, decoded, bound))
    return f"{value:.6g} comes back as {found:.6g}; the tokenizer promises {most:.3g} or less"


def _finite(decoded: Observation, tokens: Tensor) -> str | None:
    """Return what is not finite though there is a code for it."""
    for name in measured(decoded):
        value = getattr(decoded, name)
        if bool(value.isinf().any()):
            return f"{name} is infinite"
        if bool(value.isnan().reshape(len(value), -1).all(dim=1)[tokens.flatten(1)[:, 0] >= 0].any()):
            return f"{name} is NaN throughout for an object that has codes"
    return None


def _same(one: Observation, other: Observation) -> bool:
    return all(torch.equal(getattr(one, n).nan_to_num(), getattr(other, n).nan_to_num()) for n in measured(one))
