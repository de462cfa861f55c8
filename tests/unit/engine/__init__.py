"""The engine without a broker."""
