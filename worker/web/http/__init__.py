"""The HTTP server and request bodies."""
