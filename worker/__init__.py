"""attendance-worker: folds check-in, no-show and scan events into attendances and serves them from Redis."""

#: Exit code of a command that Ctrl-C ended before its work was done, as shells report SIGINT.
EXIT_INTERRUPTED = 130
