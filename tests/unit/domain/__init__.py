"""The fold and its rows."""
