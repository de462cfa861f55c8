"""Pure functions: the law of the fold, the mismatch rules, the summaries. No clock, no randomness, no I/O."""
