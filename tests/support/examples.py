"""How many examples a property is tried with: all in `make test-full`, half of them in `make test`."""

import os

#: Set by `make test-full`.
IS_FULL = bool(os.environ.get("TEST_FULL"))


def examples(number: int) -> int:
    """So many, or half of them."""
    return number if IS_FULL else -(-number // 2)
