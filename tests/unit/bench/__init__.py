"""What of the benchmark needs no services."""
