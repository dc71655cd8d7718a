"""Random numbers as a function of a key: what comes out depends on what is asked for, never on who asked before.

Everything random in the data flow (split, order, masking) is drawn here, vectorised, without any generator's state: a
sample's draws are the same in any batch, on any rank, after any resume. `mix` is the finaliser of SplitMix64 (Steele,
Lea, Flood 2014); `permute` is a Feistel network with cycle walking (Black, Rogaway 2002).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Float = npt.NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
#: (fewest bits, most bits, pairs of Feistel rounds): where the halves have few bits, each round mixes little.
_ROUNDS = ((1, 5, 16), (6, 6, 5), (7, 32, 3))


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


def uniform(keys: U64) -> Float:
    """Return one number in [0, 1) for each key: its upper 53 bits."""
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


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
    x = np.broadcast_to(np.asarray(index, np.uint32), shape).flatten()
    n = np.broadcast_to(np.asarray(size, np.uint32), shape).ravel()
    k = np.broadcast_to(keys, shape).ravel()
    bits = np.frexp(np.maximum(n, 1) - np.uint32(1))[1]
    for least, most, rounds in _ROUNDS:
        chosen = np.flatnonzero((bits >= least) & (bits <= most))
        if len(chosen):
            x[chosen] = _walk(x[chosen], bits[chosen].astype(np.uint32), k[chosen], n[chosen], rounds)
    return x.reshape(shape)


def _walk(x: U32, bits: U32, keys: U64, n: U32, rounds: int) -> U32:
    """Permute a power of two, again and again where the result is not below n."""
    result = _feistel(x, bits, keys, rounds)
    outside = np.flatnonzero(result >= n)
    while len(outside):
        again = _feistel(result[outside], bits[outside], keys[outside], rounds)
        result[outside] = again
        outside = outside[again >= n[outside]]
    return result


def _feistel(x: U32, bits: U32, keys: U64, rounds: int) -> U32:
    """Permute 0 … 2**bits − 1: the two parts of the bits in turn are changed by a hash of the other part."""
    one = np.uint32(1)
    half = bits >> one
    right_mask, left_mask = (one << half) - one, (one << (bits - half)) - one
    left, right = x >> half, x & right_mask
    round_key, step = keys.astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32) | one
    for _ in range(rounds):
        left ^= _scramble(right, round_key) & left_mask
        round_key += step
        right ^= _scramble(left, round_key) & right_mask
        round_key += step
    left <<= half
    left |= right
    return left


def _scramble(x: U32, round_key: U32) -> U32:
    x = x * np.uint32(0x9E3779B1)
    x += round_key
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(15)
    return x
