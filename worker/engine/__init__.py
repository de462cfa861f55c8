"""What Faust lacks: batches, exact commits, tables that are never ahead of their changelog, a safe recovery.

It does not know what an attendance is. It uses private names of faust-streaming, whose version is therefore pinned.
"""
