"""How long changes take to live subscribers, and what subscribers cost."""
