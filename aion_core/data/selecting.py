"""The rules of `aion_core.data.masking`, one sample after another, and its tokens' codes, as machine code.

**Random numbers** are SplitMix64 (Steele, Lea, Flood 2014), begun anew with each sample's key: a sample's selection is
the same in any batch.

**Causal sequences** are made of items of a fixed number of tokens. Each run of hidden items is replaced by one sentinel
in the input; the target is ``[S_0, run 0, S_1, run 1, …, end]``, of which the decoder sees all but the last and
predicts all but the first (teacher forcing, shifted by one). Sentinels and the end cost places like tokens. Two rules
keep small budgets sensible. A sequence none of whose items is seen leaves no lone sentinel in the input, just as if it
had not been given. A target that does not fit is cut behind its last whole item that does, so it has no end.

A *reference* is a token of the modality if it is 0 or more, else −1 − a reserved id. A *rank* says in which order items
become visible; a *cost* is a number of places: ``cost[v]`` for v items seen, or predicted.

All of it stands in one file, because that is what decides whether the machine code on the disk is still true.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aion_core.contract import SEQUENCE_IDS
from aion_core.data.compiled import compiled
from aion_core.data.masking import NO_REFERENCE

Array = npt.NDArray[Any]

IMPOSSIBLE = 2**31 - 1
END = -1 - SEQUENCE_IDS.end
SENTINEL = -1 - SEQUENCE_IDS.first_sentinel
SENTINELS = SEQUENCE_IDS.n_sentinels

_STEP = np.uint64(0x9E3779B97F4A7C15)
_ODD = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_11, _27, _30, _31, _32 = (np.uint64(bits) for bits in (11, 27, 30, 31, 32))

# --- random numbers -----------------------------------------------------------------------------------------------


@compiled
def _random(state: Array) -> Any:
    """Return the next 64 random bits."""
    state[0] += _STEP
    x = state[0]
    x = (x ^ (x >> _30)) * _ODD[0]
    x = (x ^ (x >> _27)) * _ODD[1]
    return x ^ (x >> _31)


@compiled
def below(n: int, state: Array) -> int:
    """Return one of 0 … n − 1, for n below 2³²."""
    return np.int64(((_random(state) >> _32) * np.uint64(n)) >> _32)  # type: ignore[return-value]


@compiled
def unit(state: Array) -> float:
    """Return a number in [0, 1)."""
    return np.float64(_random(state) >> _11) * 2.0**-53


@compiled
def pick(counts: Array, state: Array) -> int:
    """Return one of the slots that have something, all equally likely; −1 if none has."""
    allowed = 0
    for count in counts:
        allowed += count > 0
    if not allowed:
        return -1
    nth = below(allowed, state)
    for slot in range(len(counts)):
        if counts[slot] > 0:
            if not nth:
                return slot
            nth -= 1
    return -1


@compiled
def draw_counts(available: Array, amount: int, counts: Array, pool: Array, state: Array) -> int:
    """Add to `counts` how many of `amount` tokens drawn uniformly, none twice, fall on each slot; return how many.

    Exact (multivariate hypergeometric): all tokens are laid side by side, and the first of a random order counted.
    """
    total = 0
    for slot in range(len(available)):
        for place in range(total, total + available[slot]):
            pool[place] = slot
        total += available[slot]
    amount = min(amount, total)
    for i in range(amount):
        j = i + below(total - i, state)
        counts[pool[j]] += 1
        pool[j] = pool[i]
    return amount


@compiled
def draw_order(n: int, count: int, order: Array, state: Array) -> None:
    """Write `count` of the numbers 0 … n − 1 to the beginning of `order`, none twice, in random order."""
    for number in range(n):
        order[number] = number
    for i in range(min(count, n - 1)):
        j = i + below(n - i, state)
        order[i], order[j] = order[j], order[i]


@compiled
def share(u: float, a: float, b: float, table: Array) -> float:
    """Return the quantile of Beta(a, b) at u, with the table of `aion_core.data.masking.beta_table`."""
    w = u
    if len(table):
        below, above = 0, len(table) - 1
        while above - below > 1:
            middle = (below + above) // 2
            if table[middle] <= u:
                below = middle
            else:
                above = middle
        step = table[above] - table[below]
        w = (below + ((u - table[below]) / step if step > 0 else 0.0)) / (len(table) - 1)
    if b != 1:
        w = 1 - (1 - w) ** (1 / b)
    return w ** (1 / a)


# --- sequences ----------------------------------------------------------------------------------------------------


@compiled
def input_costs(rank: Array, width: int, cost: Array) -> None:
    """Fill in what seeing v items costs in the input; `IMPOSSIBLE` if it takes more sentinels than there are."""
    items = len(rank)
    for item in range(items):  # showing an item changes the number of hidden runs by its hidden neighbours less one
        change = -1
        if item > 0 and rank[item - 1] > rank[item]:
            change += 1
        if item + 1 < items and rank[item + 1] > rank[item]:
            change += 1
        cost[rank[item] + 1] = change
    runs = 1
    cost[0] = 0
    for seen in range(1, items + 1):
        runs += cost[seen]
        cost[seen] = seen * width + runs if runs <= SENTINELS else IMPOSSIBLE


@compiled
def target_costs(rank: Array, width: int, seen: int, cost: Array) -> None:
    """Fill in what predicting the first h of the hidden items costs, up to all of them."""
    hidden, behind, inside = 0, -1, False  # the first sentinel is seen, but not predicted
    cost[0] = 0
    for item in range(len(rank)):
        if rank[item] >= seen:
            hidden += 1
            behind += width + (not inside)
            cost[hidden] = behind
        inside = rank[item] >= seen
    if hidden:
        cost[hidden] += 1  # the end


@compiled
def affordable(cost: Array, most: int, places: int) -> int:
    """Return the most items, `most` at best, that cost no more than so many places."""
    for count in range(most, 0, -1):
        if cost[count] <= places:
            return count
    return 0


@compiled
def write_shown(rank: Array, width: int, seen: int, reference: Array) -> int:
    """Write the references that stand in the input for a sequence; return how many."""
    place, run, inside = 0, 0, False
    for item in range(len(rank)):
        hidden = rank[item] >= seen
        if not hidden:
            for token in range(width):
                reference[place + token] = item * width + token
            place += width
        elif not inside:
            reference[place] = SENTINEL - run
            place, run = place + 1, run + 1
        inside = hidden
    return place


@compiled
def write_asked(rank: Array, width: int, seen: int, count: int, reference: Array, previous: Array) -> None:
    """Write the first `count` references that are to be predicted of a sequence, and those before them."""
    place, run, inside, before = -1, 0, False, 0
    for item in range(len(rank)):
        hidden = rank[item] >= seen
        if hidden:
            for token in range(0 if inside else -1, width):
                now = item * width + token if token >= 0 else SENTINEL - run
                if place >= 0:
                    reference[place], previous[place] = now, before
                place, before = place + 1, now
                if place == count:
                    return
            run += not inside
        inside = hidden
    reference[place], previous[place] = END, before


# --- one sample ---------------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """What is known of the modalities and found of one sample; arrays by slot, where nothing else is said.

    Attributes
    ----------
    width, causal
        Tokens of an item; whether it is a sequence.
    n, first
        Its tokens, and those of the slots before.
    items, seen
        Items of sequences, and how many of them are seen.
    shown, asked
        Places in the input and among the targets, sentinels and ends included.
    left, spare, order
        What may be asked at most; what may still be taken at some time; slots in random order.
    rank, cost
        By item of sequences, from `first`; and costs of the input, then of the targets, from ``first + slot``.
    pool, state
        To draw from; of the random numbers.
    """

    width: Array
    causal: Array
    n: Array
    first: Array
    items: Array
    seen: Array
    shown: Array
    asked: Array
    left: Array
    spare: Array
    order: Array
    rank: Array
    cost: Array
    pool: Array
    state: Array


def workspace(width: Array, causal: Array, tokens: int) -> Work:
    """Return room for samples of so many tokens at most."""
    slots = len(width)
    n, first, items, seen, shown, asked, left, spare, order = np.zeros((9, slots), np.int64)
    rank, cost = np.zeros(tokens, np.int64), np.zeros(tokens + slots, np.int64)
    pool = np.zeros(2 * tokens + slots, np.int32)  # a sequence's targets may cost more places than it has tokens
    state = np.zeros(1, np.uint64)
    return Work(width, causal, n, first, items, seen, shown, asked, left, spare, order, rank, cost, pool, state)


@compiled
def begin(work: Work, n: Array, key: Any) -> int:
    """Take up a sample: its tokens, and the order in which items become visible. Return how many tokens it has."""
    work.state[0] = key
    total = 0
    for slot in range(len(n)):
        work.n[slot], work.first[slot] = n[slot], total
        work.items[slot] = n[slot] // work.width[slot] if work.causal[slot] else 0
        if work.items[slot]:
            rank = work.rank[total : total + work.items[slot]]
            draw_order(len(rank), len(rank), rank, work.state)
            input_costs(rank, work.width[slot], work.cost[total + slot :])
        total += n[slot]
        work.shown[slot] = work.asked[slot] = 0
    return total


@compiled
def count_inputs(work: Work, total: int, limit: int) -> None:
    """Draw how many places of the input each slot gets, and how many items are seen."""
    shown, spare, seen, state = work.shown, work.spare, work.seen, work.state
    budget = limit if total > limit else below(total, state)
    chosen = pick(work.n, state)
    kept = below(work.n[chosen] // work.width[chosen] + 1, state)
    if work.causal[chosen]:
        cost = work.cost[work.first[chosen] + chosen :]
        seen[chosen] = affordable(cost, kept, budget)
        shown[chosen] = cost[seen[chosen]]
    else:
        shown[chosen] = min(kept, budget)
    budget -= shown[chosen]
    for slot in range(len(spare)):
        spare[slot] = work.n[slot] if slot != chosen else 0
    budget -= draw_counts(spare, budget, shown, work.pool, state)
    for slot in range(len(spare)):
        if work.items[slot] and slot != chosen:
            cost = work.cost[work.first[slot] + slot :]
            seen[slot] = affordable(cost, work.items[slot], shown[slot])
            budget += shown[slot] - cost[seen[slot]]
            shown[slot] = cost[seen[slot]]
        spare[slot] = 0 if work.causal[slot] or slot == chosen else work.n[slot] - shown[slot]
    if budget:  # what sequences could not use, because they take whole items only
        draw_counts(spare, budget, shown, work.pool, state)


@compiled
def count_shares(work: Work, chosen: int, budget: int, beta: Array, table: Array) -> int:
    """Draw Beta-distributed shares of what is left, in random order of the slots while the budget lasts."""
    slots, given = 0, 0
    for slot in range(len(work.left)):
        if work.left[slot] > 0 and slot != chosen:
            j = below(slots + 1, work.state)
            work.order[slots] = work.order[j]
            work.order[j] = slot
            slots += 1
    for nth in range(slots):
        slot = work.order[nth]
        part = share(unit(work.state), beta[0], beta[1], table) * work.left[slot]
        wanted = min(int(part + unit(work.state)), work.left[slot], budget - given)
        work.asked[slot] += wanted
        given += wanted
        if given == budget:
            break
    return given


@compiled
def count_targets(work: Work, limit: int, beta: Array, table: Array) -> None:
    """Draw how many places of the targets each slot gets."""
    asked, left, spare, state = work.asked, work.left, work.spare, work.state
    for slot in range(len(left)):
        left[slot] = work.n[slot] - work.shown[slot]
        if work.items[slot]:
            rank = work.rank[work.first[slot] : work.first[slot] + work.items[slot]]
            cost = work.cost[work.first[slot] + slot :]
            target_costs(rank, work.width[slot], work.seen[slot], cost)
            left[slot] = cost[work.items[slot] - work.seen[slot]]
    chosen = pick(left, state)
    if chosen < 0:
        return
    if work.causal[chosen]:
        cost = work.cost[work.first[chosen] + chosen :]
        asked[chosen] = cost[affordable(cost, 1 + below(work.items[chosen] - work.seen[chosen], state), limit)]
    else:
        asked[chosen] = min(1 + below(left[chosen], state), limit)
    budget = limit - asked[chosen]
    budget -= count_shares(work, chosen, budget, beta, table)
    for slot in range(len(spare)):
        spare[slot] = left[slot] - asked[slot]
    budget -= draw_counts(spare, budget, asked, work.pool, state)
    for slot in range(len(left)):
        if work.items[slot]:
            cost = work.cost[work.first[slot] + slot :]
            affords = cost[affordable(cost, work.items[slot] - work.seen[slot], asked[slot])]
            budget += asked[slot] - affords
            asked[slot] = affords
        spare[slot] = 0 if work.causal[slot] else left[slot] - asked[slot]
    if budget:
        draw_counts(spare, budget, asked, work.pool, state)


@compiled
def write_tokens(work: Work, slot: int, inputs: Array, targets: Array) -> None:
    """Write references of a slot's tokens: to ``inputs[1:3]`` and ``targets[1:3]``, each as many as there is room."""
    shown, asked = inputs.shape[1], targets.shape[1]
    draw_order(work.n[slot], shown + asked, work.pool, work.state)
    for place in range(shown):
        inputs[1, place] = inputs[2, place] = work.pool[place]
    for place in range(asked):
        targets[1, place] = targets[2, place] = work.pool[shown + place]


@compiled
def write_sequence(work: Work, slot: int, inputs: Array, targets: Array) -> None:
    """Write references and positions of a sequence, and for targets the references before."""
    rank = work.rank[work.first[slot] : work.first[slot] + work.items[slot]]
    if inputs.shape[1]:
        write_shown(rank, work.width[slot], work.seen[slot], inputs[1])
    if targets.shape[1]:
        write_asked(rank, work.width[slot], work.seen[slot], targets.shape[1], targets[1], targets[3])
    for place in range(inputs.shape[1]):
        inputs[2, place] = place
    for place in range(targets.shape[1]):
        targets[2, place] = place


@compiled
def write(work: Work, inputs: Array, targets: Array) -> None:
    """Write a sample's input ``[3, N]`` and targets ``[4, M]``."""
    for place in range(targets.shape[1]):
        targets[3, place] = NO_REFERENCE
    shown, asked = 0, 0
    for slot in range(len(work.n)):
        first, shown = shown, shown + work.shown[slot]
        second, asked = asked, asked + work.asked[slot]
        if first == shown and second == asked:
            continue
        inputs[0, first:shown] = slot
        targets[0, second:asked] = slot
        if work.causal[slot]:
            write_sequence(work, slot, inputs[:, first:shown], targets[:, second:asked])
        else:
            write_tokens(work, slot, inputs[:, first:shown], targets[:, second:asked])
    inputs[0, shown:], targets[0, asked:] = -1, -1
    inputs[1:, shown:], targets[1:3, asked:] = 0, 0


# --- a batch ------------------------------------------------------------------------------------------------------


@compiled
def fill(work: Work, lengths: Array, keys: Array, beta: Array, table: Array, inputs: Array, targets: Array) -> None:
    """Write B samples' inputs ``[3, B, N]`` and targets ``[4, B, M]``."""
    for sample in range(len(lengths)):
        total = begin(work, lengths[sample], keys[sample])
        if total:
            count_inputs(work, total, inputs.shape[2])
            count_targets(work, targets.shape[2], beta, table)
        write(work, inputs[:, sample], targets[:, sample])


@compiled
def look_up(
    codes: Array, narrow: Array, wide: Array, is_wide: Array, begins: Array, rows: Array, slots: Array, reference: Array
) -> int:
    """Write the codes ``[B, n]`` that references of some samples stand for, 0 where there is no token.

    Parameters
    ----------
    narrow, wide, is_wide
        A store's file as numbers of two and of four bytes, and which slots' codes have four, ``[S]``.
    begins
        Where in the file each sample's tokens of a slot begin, ``[B, S]``.
    rows
        The samples, ``[k]``.
    slots, reference
        ``[B, n]``; `NO_REFERENCE` stands for −1.

    Returns
    -------
    outside
        How many codes would lie outside the file, which was damaged then.
    """
    outside = 0
    for row in rows:
        for place in range(slots.shape[1]):
            slot, token = slots[row, place], reference[row, place]
            if token < 0:
                codes[row, place] = -1 if token == NO_REFERENCE else -1 - token
                continue
            codes[row, place] = 0
            if slot < 0:
                continue
            address = begins[row, slot] + token
            if address < 0 or address >= (len(wide) if is_wide[slot] else len(narrow)):
                outside += 1
            elif is_wide[slot]:
                codes[row, place] = wide[address]
            else:
                codes[row, place] = narrow[address]
    return outside


def select(
    lengths: Array, keys: Array, width: Array, causal: Array, budgets: tuple[int, int], beta: Array, table: Array
) -> tuple[Array, Array]:
    """Select B samples' inputs and targets, as `aion_core.data.masking` describes.

    Parameters
    ----------
    lengths, keys
        Tokens by sample and slot, int64 ``[B, S]``; a key for each sample, uint64 ``[B]``.
    width, causal
        Of each slot: tokens of an item, int64 ``[S]``; whether it is a sequence, bool ``[S]``.
    budgets
        Places of the input and the targets: N and M.
    beta, table
        Parameters of the Beta distribution, ``[2]``, and its table.

    Returns
    -------
    inputs, targets
        int64 ``[3, B, N]`` and ``[4, B, M]``: slot (−1 where there is none), reference, position; and the reference
        before a target.
    """
    inputs = np.empty((3, len(lengths), budgets[0]), np.int64)
    targets = np.empty((4, len(lengths), budgets[1]), np.int64)
    work = workspace(width, causal, int(lengths.sum(axis=1).max(initial=0)))
    fill(work, lengths, keys, beta, table, inputs, targets)
    return inputs, targets
