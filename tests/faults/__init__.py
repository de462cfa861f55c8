"""Faults for real: seeded rounds in which workers, brokers and Redis die under load, judged by the naive oracle.

`world` says what is published, `schedule` what dies and when (both by the seed alone); `crew`, `publisher` and `stage` are
the round's workers, its devices and its services; `faults` does the harm; `verdict` compares; `evidence` is what a wrong
round leaves behind; `round` is one round.
`python -m tests.faults` runs them.
"""
