"""Numbers as tables print them."""

from __future__ import annotations

import pytest

from protoseg.report.wording import format_millions


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0"),
        (1, "0.000001"),
        (9.6, "0.00001"),
        (48, "0.00005"),
        (4_999, "0.005"),
        (5_000, "0.01"),
        (24_700_000, "24.70"),
        (9_999_990_000, "9999.99"),
        (12_345_678_900, "12,345.7"),
    ],
)
def test_millions_have_no_exponent(count: float, expected: str) -> None:
    assert format_millions(count) == expected
