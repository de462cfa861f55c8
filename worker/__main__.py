"""The ``attendance`` command, also ``python -m worker``."""

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        # it takes a moment, in which somebody may have thought better of it
        from worker.cli.commands import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
