"""Connections to Redis: one server or a cluster, one shared connection, scripts. Knows no attendance."""
