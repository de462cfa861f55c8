"""Bytes to events, bookings and dead letters."""
