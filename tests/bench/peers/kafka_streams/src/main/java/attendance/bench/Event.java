package attendance.bench;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;

/** What the job needs of a CloudEvent. */
@JsonIgnoreProperties(ignoreUnknown = true)
record Event(String type, String time, Data data) {

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Data(String bookingId, String sessionId, Integer numberOfAttendees) {}

    String key() {
        return data.bookingId() + "|" + data.sessionId();
    }

    Attendance attendance() {
        boolean attended = type.equals("attendance.check_in");
        Integer number = data.numberOfAttendees();
        return new Attendance(
                data.bookingId(),
                data.sessionId(),
                attended ? "ATTENDED" : "NOT_ATTENDED",
                attended ? (number == null ? 1 : number) : 0,
                time);
    }
}
