"""What travels and what rests: the shapes of events, attendances, bookings and alerts. No I/O."""
