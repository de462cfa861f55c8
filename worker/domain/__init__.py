"""The pure part: the law of the fold, the mismatch rules, the views. No clock, no randomness, no I/O."""
