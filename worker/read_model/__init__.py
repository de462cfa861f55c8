"""The read models in Redis: keys, fenced writer, repair, reader. See ``worker/read_model/README.md``."""
