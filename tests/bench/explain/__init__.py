"""How long `attendance explain` takes where a booking's partition holds millions of events."""
