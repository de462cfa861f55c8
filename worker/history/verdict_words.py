"""Verdicts in words, with the offsets of the events that they name."""

from collections.abc import Sequence

from schemas.times import format_exact_time
from worker.domain.verdicts import Judgement, Verdict


def verdict_words(judgement: Judgement, participants: int, offsets: Sequence[int]) -> str:
    """Why an event counts or does not, in a line.

    Args:
        participants: scanned participants that count.
        offsets: by the number of an event.
    """
    words = _verdict(judgement, participants, offsets)
    if not judgement.is_clamped:
        return words
    times = f"from {format_exact_time(judgement.event.time)} to {format_exact_time(judgement.effective)}"
    return f"{words}; clamped {times} by the clock tolerance"


def _verdict(judgement: Judgement, participants: int, offsets: Sequence[int]) -> str:
    match judgement.verdict:
        case Verdict.BASE:
            return "counts as the base"
        case Verdict.SCAN:
            return f"scan {judgement.position} of {participants}"
        case Verdict.HORIZON:
            return "the horizon: what is not later does not count"
    assert judgement.by is not None, "what does not count yields to another event"
    other = offsets[judgement.by]
    match judgement.verdict:
        case Verdict.DUPLICATE:
            return f"duplicate of offset {other}"
        case Verdict.COVERED_BY_BASE:
            return f"covered by the base of offset {other}"
        case Verdict.COVERED_BY_HORIZON:
            return f"covered by the horizon of offset {other}"
        case _:
            return f"superseded by offset {other}"
