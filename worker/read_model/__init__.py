"""The read models in Redis: layout, fenced writer, repair, reader."""
