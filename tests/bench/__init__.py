"""What an event costs: the worker on a real Kafka and Redis, and peers on the same events in the same run.

`python -m tests.bench` (`make bench`). Absolute figures are of the machine that ran it; the ratios travel. Nothing is
asserted: a slow run is a figure, not a failure. Linux only, since processes are read in /proc.
"""
