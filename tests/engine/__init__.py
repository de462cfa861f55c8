"""The hazards of the design's table, each met by a test or by a reason (README.md)."""
