"""Scrambled Sobol points: numbers that cover a unit cube more evenly than random ones.

The points are computed here, without scipy: importing scipy.stats takes as long as a plan, and
these points are part of run ids, so they must not change with a release of another package.

Source: Sobol' 1967; the numbers of Joe and Kuo 2008 (new-joe-kuo-6); the scrambling of Matousek
1998, a random lower-triangular matrix and a random shift for each dimension.
"""

from __future__ import annotations

import functools
import hashlib

BITS = 30
"""Binary digits of a number."""
DIRECTIONS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (1, 0, (1,)),
    (2, 1, (1, 3)),
    (3, 1, (1, 3, 1)),
    (3, 2, (1, 1, 1)),
    (4, 1, (1, 1, 3, 3)),
    (4, 4, (1, 3, 5, 13)),
    (5, 2, (1, 1, 5, 5, 17)),
    (5, 4, (1, 1, 5, 5, 5)),
    (5, 7, (1, 1, 7, 11, 19)),
    (5, 11, (1, 1, 5, 1, 1)),
    (5, 13, (1, 1, 1, 3, 11)),
    (5, 14, (1, 3, 5, 5, 31)),
    (6, 1, (1, 3, 3, 9, 7, 49)),
    (6, 13, (1, 1, 1, 15, 21, 21)),
    (6, 16, (1, 3, 1, 13, 27, 49)),
)
"""Of each dimension after the first: degree and inner coefficients of a primitive polynomial, and
the first direction numbers."""
DIMENSIONS = 1 + len(DIRECTIONS)


@functools.cache
def list_points(number: int, seed: int | None) -> tuple[tuple[float, ...], ...]:
    """List the first points of the sequence in `DIMENSIONS` dimensions.

    Args:
        number: number of points; a smaller number gives the first of the same points.
        seed: seed of the scrambling; None for the sequence without it.

    Returns:
        Points with coordinates in [0, 1).
    """
    columns = []
    for dimension in range(DIMENSIONS):
        directions, shift = _list_directions(dimension), 0
        if seed is not None:
            directions, shift = _scramble(directions, seed, dimension)
        columns.append([_sum_directions(directions, index, shift) for index in range(number)])
    return tuple(zip(*columns, strict=True))


def _sum_directions(directions: list[int], index: int, shift: int) -> float:
    """Coordinate of the point at an index: the directions of the Gray code of the index."""
    value, code = shift, index ^ (index >> 1)
    for bit, direction in enumerate(directions):
        if code >> bit & 1:
            value ^= direction
    return float(value / 2**BITS)


@functools.cache
def _list_directions(dimension: int) -> list[int]:
    """The direction numbers of a dimension, as fractions with `BITS` digits."""
    if dimension == 0:
        return [1 << (BITS - 1 - bit) for bit in range(BITS)]
    degree, coefficients, first = DIRECTIONS[dimension - 1]
    numbers = list(first)
    for index in range(degree, BITS):
        number = numbers[index - degree] ^ (numbers[index - degree] << degree)
        for step in range(1, degree):
            if coefficients >> (degree - 1 - step) & 1:
                number ^= numbers[index - step] << step
        numbers.append(number)
    return [number << (BITS - 1 - bit) for bit, number in enumerate(numbers)]


def _scramble(directions: list[int], seed: int, dimension: int) -> tuple[list[int], int]:
    """Multiply directions by a random lower-triangular matrix; also return a random shift.

    The random bits are a hash of seed and dimension, so they are the same everywhere.
    """
    text = f"protoseg.sobol/{seed}/{dimension}".encode()
    data = hashlib.shake_256(text).digest(4 * (BITS + 1))
    numbers = [
        int.from_bytes(data[4 * i : 4 * i + 4], "big") >> (32 - BITS) for i in range(BITS + 1)
    ]
    # Row i decides digit i of the result, counted from the first one: its own digit and a random
    # choice of the digits before it.
    rows = [
        (1 << (BITS - 1 - i)) | (numbers[i] & ~((1 << (BITS - i)) - 1) & ((1 << BITS) - 1))
        for i in range(BITS)
    ]
    scrambled = [
        sum(((row & direction).bit_count() & 1) << (BITS - 1 - i) for i, row in enumerate(rows))
        for direction in directions
    ]
    return scrambled, numbers[BITS]
