"""The ``attendance`` command, also ``python -m worker``."""

import sys

from worker import EXIT_INTERRUPTED


def main() -> None:
    """Entry point of the console script."""
    try:
        # this import takes a moment: Ctrl-C meanwhile must end the command without a traceback
        from worker.cli.commands import main as run
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
