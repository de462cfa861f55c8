"""``python -m worker`` is ``attendance``."""

from worker.cli import main

if __name__ == "__main__":
    main()
