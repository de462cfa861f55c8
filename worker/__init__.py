"""attendance-worker: folds check-in, no-show and scan events into attendances and serves them from Redis."""
