"""The ``attendance`` command."""
