"""What a query costs on a million attendances (`make bench-query`)."""
