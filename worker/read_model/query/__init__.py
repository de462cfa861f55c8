"""Plans of queries: pages, orders, index scans, gets by id."""
