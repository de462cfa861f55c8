"""Read models without Redis."""
