"""The ``attendance`` command, also ``python -m worker``."""

import sys

from worker import EXIT_INTERRUPTED


def main() -> None:
    """Entry point of the console script."""
    try:
        # this import takes a moment: Ctrl-C meanwhile must end the command without a traceback
        from worker.cli.commands import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package in ("schemas", "worker", ""):
            raise
        sys.exit(
            f"attendance: {package} is not installed: install the extras worker and api (without them only the reader works)"
        )


if __name__ == "__main__":
    main()
