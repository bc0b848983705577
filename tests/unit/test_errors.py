"""What is said of an error in one line."""

import pytest

from rayworks.errors import DataError, first_line, named


@pytest.mark.parametrize(
    ("error", "line", "with_class"),
    [
        (ValueError("too large"), "too large", "ValueError: too large"),
        (ValueError("\nfirst\nsecond\n"), "first", "ValueError: first"),
        (AssertionError(), "AssertionError", "AssertionError"),
        (DataError("no rows"), "No rows.", "DataError: No rows."),
    ],
    ids=["one line", "several lines", "no message", "a sentence"],
)
def test_an_error_is_its_first_line_or_its_class(error: Exception, line: str, with_class: str):
    assert (first_line(error), named(error)) == (line, with_class)
