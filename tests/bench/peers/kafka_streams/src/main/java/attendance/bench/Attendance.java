package attendance.bench;

/** The state of a booking and session, and its document in Redis. */
record Attendance(String bookingId, String sessionId, String status, int numberOfAttendees, String updatedDate) {}
