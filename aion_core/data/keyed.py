"""Random numbers as a function of a key: what comes out depends on what is asked for, never on who asked before.

Everything random in the data flow (split, order, masking) hangs on keys made here: a sample's draws are the same in any
batch, on any rank, after any resume. Split and order are drawn here, too, vectorised and without any generator's state.
`mix` is the finaliser of SplitMix64 (Steele, Lea, Flood 2014); `permute` is a generalised Feistel network with cycle
walking (Black, Rogaway 2002).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Float = npt.NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
#: Pairs of Feistel rounds; more for small permutations, where each round mixes little.
_ROUNDS, _SMALL, _ROUNDS_SMALL = 4, 32, 8
#: Numbers permuted at once: what fits the processor's cache.
_BLOCK = 1 << 15


def mix(x: U64) -> U64:
    """Scramble 64-bit integers one to one, so that neighbours have nothing in common."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def key(*parts: npt.ArrayLike) -> U64:
    """Return 64-bit keys of integers, or arrays of integers that broadcast; at least one-dimensional."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = mix((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


def permute(index: npt.NDArray[np.integer], size: npt.ArrayLike, keys: U64) -> U32:
    """Return where a keyed pseudo-random permutation of 0 … size − 1 puts `index`.

    Parameters
    ----------
    index, size
        Integers below 2³²; ``0 <= index < size``. All three arguments broadcast.
    keys
        One permutation each.
    """
    shape = np.broadcast_shapes(np.shape(index), np.shape(size), keys.shape)
    x = np.broadcast_to(np.asarray(index, np.uint32), shape).ravel()
    n = np.broadcast_to(np.asarray(size, np.uint32), shape).ravel()
    k = np.broadcast_to(keys, shape).ravel()
    result = np.empty_like(x)
    for start in range(0, len(x), _BLOCK):
        block = slice(start, start + _BLOCK)
        result[block] = _permute_block(x[block], n[block], k[block])
    return result.reshape(shape)


def _permute_block(x: U32, n: U32, keys: U64) -> U32:
    small = (n > 1) & (n < _SMALL)
    if not small.any():
        return _walk(x, n, keys, _ROUNDS)
    result = np.empty_like(x)
    for chosen, rounds in ((small, _ROUNDS_SMALL), (~small, _ROUNDS)):
        result[chosen] = _walk(x[chosen], n[chosen], keys[chosen], rounds)
    return result


def _walk(x: U32, n: U32, keys: U64, rounds: int) -> U32:
    """Permute a rectangle that holds n and hardly more, again and again where the result is not below n."""
    rows = np.ceil(np.sqrt(n)).astype(np.uint32)
    columns = (n + (rows - np.uint32(1))) // rows
    result = _feistel(x, rows, columns, keys, rounds)
    outside = np.flatnonzero(result >= n)
    while len(outside):
        again = _feistel(result[outside], rows[outside], columns[outside], keys[outside], rounds)
        result[outside] = again
        outside = outside[again >= n[outside]]
    return result


def _feistel(x: U32, rows: U32, columns: U32, keys: U64, rounds: int) -> U32:
    """Permute the places of a rectangle: row and column in turn are rotated by a hash of the other."""
    row = x // columns
    column = x - row * columns
    round_key, step = keys.astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    for _ in range(rounds):
        _rotate(row, rows, column, round_key)
        round_key += step
        _rotate(column, columns, row, round_key)
        round_key += step
    row *= columns
    row += column
    return row


def _rotate(x: U32, size: U32, other: U32, round_key: U32) -> None:
    """Add to x, modulo size, a hash of the other coordinate; in place."""
    shift = other * np.uint32(0x9E3779B1)
    shift += round_key
    shift ^= shift >> np.uint32(16)
    shift *= np.uint32(0x85EBCA6B)
    shift >>= np.uint32(16)
    shift *= size
    shift >>= np.uint32(16)
    x += shift
    np.minimum(x, x - size, out=x)  # unsigned: below the size, x - size wraps to something huge
