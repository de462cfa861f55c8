"""A limited resource that several holders share, so that no holder can use it up."""

from collections import Counter


class Shares:
    """Requests in flight, or bytes of their bodies.

    A holder may take at most as much as it leaves free for the others: half of the total if it is alone, a third beside one
    that holds a third, and so on. So a holder without a share always gets one.

    Args:
        total: the amount to share.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._held: Counter[str] = Counter()

    def take(self, holder: str, amount: int = 1) -> bool:
        """Takes an amount for a holder; returns False and takes nothing if that is more than its share."""
        held = self._held[holder] + amount
        if held > self._total - self._taken:
            return False
        self._held[holder] = held
        self._taken += amount
        return True

    def give_back(self, holder: str, amount: int = 1) -> None:
        """Returns an amount that was taken."""
        self._taken -= amount
        self._held[holder] -= amount
        if not self._held[holder]:
            del self._held[holder]
