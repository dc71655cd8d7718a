"""Rules on tokens made side by side: in threads, in another process, on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from torch import Tensor

from aion_core.contract import ModalitySpec
from aion_core.testing.elsewhere import SEED, SIZE, found_elsewhere
from aion_core.testing.examples import Batch
from aion_core.testing.rules import NotApplicableError, rule
from aion_core.testing.subject import Subject

THREADS = 4
#: Share of tokens that a GPU, which sums in another order, must give as a CPU does.
SHARE = 0.999


@rule("tokenizer", "keep what belongs to one call in local variables, not in attributes of the tokenizer")
def tokens_are_the_same_in_threads(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """Four threads that use one tokenizer at the same time each get their own tokens."""
    tokenizer = subject.tokenizer(spec)
    own = [Batch(1 + place % 3, 40 + place) for place in range(THREADS)]
    given = [subject.observe(spec, batch) for batch in own]
    expected, start = [tokenizer.encode(obs) for obs in given], Barrier(THREADS)

    def work(place: int) -> list[Tensor]:
        start.wait()
        return [tokenizer.encode(given[place]) for _ in range(2)]

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work, place) for place in range(THREADS)]
        for place, future in enumerate(futures):
            if not all(torch.equal(tokens, expected[place]) for tokens in future.result()):
                yield f"{own[place]} gives other tokens while {THREADS - 1} other threads encode"


@rule("modality", "let nothing that encoding reads depend on the process: no `hash()`, `id()`, globals, files or times")
def tokens_are_the_same_elsewhere(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """Another process that reads the saved tokenizer gives the same tokens."""
    here, elsewhere = subject.encode(spec, Batch(SIZE, SEED)), found_elsewhere(subject)
    if (error := elsewhere.errors.get(spec.key)) is not None:
        yield f"another process cannot read the tokenizer or encode: {error}"
        return
    if spec.key not in elsewhere.tokens:
        raise NotApplicableError("it cannot be saved, see saved_and_read")
    there = torch.tensor(elsewhere.tokens[spec.key], dtype=torch.int64).reshape(here.shape)
    if differing := int((there != here).sum()):
        yield f"{differing} of {here.numel()} tokens differ in another process"


@rule(
    "tokenizer",
    "compute in float32, as `encode` of the base class does, and let tensors be parameters or buffers",
)
def tokens_are_the_same_on_a_gpu(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """At least 99.9 % of tokens are the same on a GPU, where there is one."""
    tokenizer, device = subject.tokenizer(spec), subject.gpu
    if device is None:
        raise NotApplicableError("there is no GPU here")
    size = max(4, 2000 // spec.n_tokens)
    obs = subject.observe(spec, Batch(size, 3))
    expected = tokenizer.encode(obs)
    found = copy.deepcopy(tokenizer).to(device).encode(obs).cpu()
    share = float((found == expected).float().mean())
    if share < SHARE:
        yield f"{100 * share:.2f} % of {expected.numel()} tokens are the same on {device}; expected {100 * SHARE} %"
