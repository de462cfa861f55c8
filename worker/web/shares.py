"""A limited amount of something that several holders share, so that no holder can take it from all others."""

from collections import Counter


class Shares:
    """Slots for requests, or bytes of bodies.

    A holder may have as much as is left for the others: alone at most half of it, beside one that has taken all it may a
    third. So whoever asks for the first time always finds something, whatever the others hold.

    Args:
        total: how much there is.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._held: Counter[str] = Counter()

    def take(self, holder: str, amount: int = 1) -> bool:
        """Takes so much more for a holder; False, and nothing taken, where that is more than its share."""
        held = self._held[holder] + amount
        if held > self._total - self._taken:
            return False
        self._held[holder] = held
        self._taken += amount
        return True

    def give_back(self, holder: str, amount: int = 1) -> None:
        """Returns what was taken."""
        self._taken -= amount
        self._held[holder] -= amount
        if not self._held[holder]:
            del self._held[holder]
