"""What Faust lacks: batches, exact commits, tables that never run ahead of their changelog, safe recovery.

Knows nothing of attendances. Leans on private names of faust-streaming, which is why that is pinned.
"""
