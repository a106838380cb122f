"""Keyed codes: each is computed from its source alone, in O(members) time.

They are for data that grow, or that are too many for a table. A code is computed from a
source's number or name and a secret, the salt, and never changes when other sources come
or go. Only the salt must be stored.

The salt keeps owners from choosing names whose codes they like. If its digest is
published before the data arrive, and the salt itself afterwards, everybody can verify
that no code was chosen by hand.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from splits.codes import CodeBook
from splits.designs.capacity import chosen_weight
from splits.designs.combinadics import rank, unrank
from splits.errors import BadInput

_ROUNDS = 6
# Beyond so many codes, numbers are spread over the ranks instead of filling them: sums
# and products in the permutation stay below 2^64.
_MOST_SLOTS = 2**62
_HASH_BITS = 128
_HALF = np.uint64(32)

Word = np.uint64
Words = UInt64[np.ndarray, "..."]


def salt_digest(salt: str) -> str:
    """The sha256 of a salt: a commitment that does not reveal it.

    Examples:
        >>> salt_digest("secret")[:8]
        '2bb80d53'
    """
    return hashlib.sha256(_bytes(salt)).hexdigest()


def numbered(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    weight: int | None = None,
    salt: str = "",
) -> CodeBook:
    """A distinct code of one weight for each source number, computed without a table.

    Sources that are appended leave the codes of the others as they are. Splits are as
    even as chance makes them. The salt takes the place of the seed.

    Args:
        n_sources: At most C(n_members, weight).
        n_members: Even, unless a weight is given.
        rng: Not used.
        weight: 1 to n_members - 1; None is half of the members.
        salt: The secret that codes follow from.

    Raises:
        BadInput: If there are too many sources, a split is empty, or the weight does
            not fit.
    """
    del rng
    weight = chosen_weight(weight, n_members)
    return CodeBook(numbered_codes(np.arange(n_sources), n_members, weight, salt))


def named(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    names: Sequence[str],
    weight: int | None = None,
    salt: str = "",
) -> CodeBook:
    """A code of one weight for each source name, by a keyed hash, without a table.

    No code depends on any other source, not even on their number. Codes are probably
    distinct if there are many more codes than sources; otherwise sources may share a
    code. The salt takes the place of the seed.

    Args:
        n_sources: How many names there are.
        n_members: Even, unless a weight is given.
        rng: Not used.
        names: What the sources are called, for ever.
        weight: 1 to n_members - 1; None is half of the members.
        salt: The secret that codes follow from.

    Raises:
        BadInput: If a split is empty, or the weight does not fit.
    """
    del n_sources, rng
    weight = chosen_weight(weight, n_members)
    return CodeBook(named_codes(names, n_members, weight, salt))


def rendezvous(
    n_sources: int,
    n_members: int,
    rng: np.random.Generator,
    names: Sequence[str],
    weight: int | None = None,
    salt: str = "",
) -> CodeBook:
    """As `named`, for ensembles that grow: a new member hardly changes old codes.

    Going from n_members to n_members + 1, a share of weight / (n_members + 1) of the
    codes moves one bit to the new member; all others stay. Set the weight, so that it
    does not grow with the ensemble.

    Args:
        n_sources: How many names there are.
        n_members: Even, unless a weight is given.
        rng: Not used.
        names: What the sources are called, for ever.
        weight: 1 to n_members - 1; None is half of the members.
        salt: The secret that codes follow from.

    Raises:
        BadInput: If a split is empty, or the weight does not fit.
    """
    del n_sources, rng
    weight = chosen_weight(weight, n_members)
    return CodeBook(rendezvous_codes(names, n_members, weight, salt))


def numbered_codes(
    numbers: Int64[np.ndarray, " codes"], n_members: int, weight: int, salt: str
) -> Bool[np.ndarray, "codes members"]:
    """Codes of sources that are numbered in the order of their arrival.

    A keyed permutation turns numbers into ranks, so different numbers have different
    codes, and codes scatter like random ones.

    Args:
        numbers: 0 to C(n_members, weight) - 1, and less than 2^62.
        n_members: Bits of a code.
        weight: Set bits of a code.
        salt: The secret.

    Raises:
        BadInput: If a number has no code.
    """
    capacity = math.comb(n_members, weight)
    n_slots = min(capacity, _MOST_SLOTS)
    slots = permute(numbers, n_slots, salt)
    if n_slots < capacity:
        spread = slots.astype(object) * capacity // n_slots
        return unrank(spread, n_members, weight)
    return unrank(slots, n_members, weight)


def numbers_of(
    bits: Bool[np.ndarray, "codes members"], salt: str
) -> Int64[np.ndarray, " codes"]:
    """The numbers whose codes these are, the inverse of `numbered_codes`.

    Args:
        bits: Codes of one weight, fewer than 2^62 in all.
        salt: The secret.

    Raises:
        BadInput: If the weights differ, or there are too many codes of this weight.
    """
    capacity = math.comb(bits.shape[1], int(bits[0].sum()))
    return invert_permutation(rank(bits), capacity, salt)


def named_codes(
    names: Sequence[str], n_members: int, weight: int, salt: str
) -> Bool[np.ndarray, "codes members"]:
    """Codes of sources that are known by name: a keyed hash is the code's rank.

    With n names, about n^2 / (2 C(n_members, weight)) pairs share a code. Ablating one
    of such a pair is exact all the same: it ablates the other with it.

    Args:
        names: In any order; equal names have equal codes.
        n_members: Bits of a code.
        weight: Set bits of a code.
        salt: The secret.
    """
    capacity = math.comb(n_members, weight)
    ranks = [hashed * capacity >> _HASH_BITS for hashed in _hashes(names, salt)]
    dtype = np.int64 if capacity < 2**63 else object
    return unrank(np.array(ranks, dtype=dtype), n_members, weight)


def rendezvous_codes(
    names: Sequence[str], n_members: int, weight: int, salt: str
) -> Bool[np.ndarray, "codes members"]:
    """Codes by rendezvous hashing, for an ensemble that gets new members.

    Each source ranks all members by a keyed hash of both, and is assigned to the first
    `weight` members. A new member is among these for weight / n_members of the sources;
    their codes move one bit to the new member, all other codes stay.
    (Thaler and Ravishankar 1998, https://doi.org/10.1109/90.663936)

    Args:
        names: In any order; equal names have equal codes.
        n_members: Bits of a code.
        weight: Set bits of a code.
        salt: The secret.
    """
    low = [hashed % 2**64 for hashed in _hashes(names, salt)]
    sources = np.array(low, dtype=np.uint64)[:, None]
    members = _keys(salt, "member", n_members)
    liking = _mix(sources ^ members)
    favourites = liking.argsort(axis=1, kind="stable")[:, n_members - weight :]
    bits = np.zeros((len(names), n_members), dtype=bool)
    np.put_along_axis(bits, favourites, True, axis=1)
    return bits


def permute(
    numbers: Int64[np.ndarray, " numbers"], n: int, salt: str
) -> Int64[np.ndarray, " numbers"]:
    """A pseudo-random permutation of 0 to n - 1 that is keyed by the salt.

    Numbers are written with two digits, left and right, in base ceil(sqrt(n)). Each
    round of a Feistel network adds a keyed function of the right digit to the left one
    and swaps them, which can be inverted for any function. A number that leaves the
    range is permuted again until it is back (cycle walking, Black and Rogaway 2002,
    https://doi.org/10.1007/3-540-45760-7_9).

    Args:
        numbers: 0 to n - 1.
        n: At most 2^62.
        salt: The secret.

    Raises:
        BadInput: If a number lies outside.
    """
    _require_inside(numbers, n)
    return _cycle_walk(numbers, n, _feistel, _keys(salt, "round", _ROUNDS))


def invert_permutation(
    numbers: Int64[np.ndarray, " numbers"], n: int, salt: str
) -> Int64[np.ndarray, " numbers"]:
    """The inverse of `permute`.

    Raises:
        BadInput: If a number lies outside of 0 to n - 1.
    """
    _require_inside(numbers, n)
    return _cycle_walk(numbers, n, _inverse_feistel, _keys(salt, "round", _ROUNDS))


def _require_inside(numbers: Int64[np.ndarray, " numbers"], n: int) -> None:
    if n > _MOST_SLOTS:
        raise BadInput(f"{n} numbers cannot be permuted: at most 2^62 can.")
    outside = numbers[(numbers < 0) | (numbers >= n)]
    if outside.size:
        raise BadInput(
            f"Source number {outside[0]} has no code: there are codes for 0 to "
            f"{n - 1}. Use more members, or another weight."
        )


def _cycle_walk(
    numbers: Int64[np.ndarray, " numbers"],
    n: int,
    through: Callable[[Words, Word, Words], Words],
    keys: Words,
) -> Int64[np.ndarray, " numbers"]:
    """Apply a permutation of 0 to side^2 - 1 until each number is in 0 to n - 1."""
    side = np.uint64(math.isqrt(n - 1) + 1)
    inside = np.uint64(n)
    found = through(numbers.astype(np.uint64), side, keys)
    outside = np.flatnonzero(found >= inside)
    while outside.size:
        found[outside] = through(found[outside], side, keys)
        outside = outside[found[outside] >= inside]
    return found.astype(np.int64)


def _feistel(numbers: Words, side: Word, keys: Words) -> Words:
    left = numbers // side
    right = numbers - left * side
    for key in keys:
        turned = _digit(right ^ key, side)
        turned += left
        # Words wrap around at 2^64, so the smaller one is the remainder by the side.
        left, right = right, np.minimum(turned, turned - side)
    return left * side + right


def _inverse_feistel(numbers: Words, side: Word, keys: Words) -> Words:
    left = numbers // side
    right = numbers - left * side
    for key in keys[::-1]:
        turned = right - _digit(left ^ key, side)
        left, right = np.minimum(turned, turned + side), left
    return left * side + right


def _digit(words: Words, side: Word) -> Words:
    """Hash words to 0 to side - 1; works in place, which saves most of the time."""
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> _HALF
    words *= np.uint64(0x94D049BB133111EB)
    words >>= _HALF
    words *= side
    words >>= _HALF
    return words


def _mix(words: Words) -> Words:
    """Mix the bits of each word (the finaliser of SplitMix64, Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _keys(salt: str, use: str, n: int) -> Words:
    """Secret words for one use of the salt; more of them begin with the same ones."""
    stream = b"".join(
        hashlib.blake2b(
            f"{use} {place}".encode(), key=_key(salt), digest_size=8
        ).digest()
        for place in range(n)
    )
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64)


def _hashes(names: Sequence[str], salt: str) -> Iterator[int]:
    """A number below 2^128 for each name, by a hash that is keyed by the salt."""
    key = _key(salt)
    for name in names:
        digest = hashlib.blake2b(
            _bytes(name), key=key, digest_size=_HASH_BITS // 8, person=b"source"
        )
        yield int.from_bytes(digest.digest(), "little")


def _key(salt: str) -> bytes:
    return hashlib.sha256(_bytes(salt)).digest()


def _bytes(text: str) -> bytes:
    """A text as bytes; names of files need not be valid Unicode."""
    return text.encode(errors="surrogatepass")
