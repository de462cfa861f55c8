"""Arguments of commands as the text that was typed."""

import os

import typer


def typed(argument: str) -> str:
    """An argument, read as UTF-8 whatever the locale is: where that is ASCII (``LANG=C``), Python hands other bytes on as
    surrogates.

    Raises:
        typer.BadParameter: it is no UTF-8.
    """
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        raise typer.BadParameter("an argument must be text in UTF-8") from None


def typed_or_none(argument: str | None) -> str | None:
    """The same of an option that may be left out."""
    return None if argument is None else typed(argument)
