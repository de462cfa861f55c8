"""Decodes the arguments of commands."""

import os

import typer


def decode_argument(argument: str) -> str:
    """An argument decoded as UTF-8 in any locale. In an ASCII locale (``LANG=C``) Python passes other bytes as surrogates.

    Raises:
        typer.BadParameter: the argument is not UTF-8.
    """
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        raise typer.BadParameter("an argument must be text in UTF-8") from None


def decode_optional(argument: str | None) -> str | None:
    """As `decode_argument`, for an option that may be left out."""
    return None if argument is None else decode_argument(argument)
