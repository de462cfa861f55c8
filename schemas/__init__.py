"""Schemas of events, bookings, attendances and alerts: what the topics hold and what readers see. No I/O."""
