"""Decodes records of the events and bookings topics."""
