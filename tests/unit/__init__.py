"""What needs no service, in folders that mirror the packages."""
