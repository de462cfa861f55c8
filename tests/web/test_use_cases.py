"""What the seed document says this API is for, each as a test by its name."""

from tests.support.serving import Api, booking_name, event, upserted


def prepared(api: Api, *documents: dict[str, object]) -> None:
    api.system.publish([(api.system.booking if d["type"] == "booking.upserted" else api.system.event)(d) for d in documents])
    api.system.until_applied()


def test_use_case_set_how_many_attendees_checked_in(api: Api) -> None:
    booking = booking_name()
    prepared(api, upserted(booking, 4, [{"sessionId": "yoga"}]), event("check_in", booking, "yoga", numberOfAttendees=2))
    assert api.get(booking, "yoga").json()["attendance"]["numberOfAttendees"] == 2
    # two more came in by another door
    done = api.set(booking, "yoga", "ATTENDED", 4).json()["attendance"]
    assert (done["status"], done["numberOfAttendees"]) == ("ATTENDED", 4)
    summary = api.client.get(f"/v1/bookings/{booking}").json()
    assert (summary["attended"], summary["notSet"]) == (1, 0)


def test_use_case_query_the_attendance_of_a_course_booking(api: Api) -> None:
    booking = booking_name()
    course = [{"sessionId": f"{booking}-week-{n:02}", "startsAt": f"2026-10-{n + 1:02}T10:00:00Z"} for n in range(10)]
    missed = (1, 2, 4, 5, 6, 8, 9)
    prepared(
        api,
        upserted(booking, 1, course, serviceType="COURSE"),
        *(event("no_show" if n in missed else "check_in", booking, each["sessionId"]) for n, each in enumerate(course)),
    )
    asked = {"bookingId": booking, "status": "NOT_ATTENDED"}
    page = api.query(filter=asked, sort=[{"fieldName": "sessionId"}]).json()
    assert [each["sessionId"] for each in page["attendances"]] == [f"{booking}-week-{n:02}" for n in missed]
    # booked, but was not there most of the time
    assert page["pagingMetadata"]["count"] > len(course) / 2
    first_only = api.query(filter=asked, cursorPaging={"limit": 3}).json()
    assert (first_only["pagingMetadata"]["count"], first_only["pagingMetadata"]["hasNext"]) == (3, True)


def test_see_whether_a_bookings_sessions_have_frequent_no_shows(api: Api) -> None:
    regular, absent, session = booking_name(), booking_name(), f"evening-{booking_name()}"
    sessions = [{"sessionId": f"{session}-{n}", "startsAt": f"2026-11-{n + 1:02}T18:00:00Z"} for n in range(5)]
    prepared(
        api,
        *(upserted(booking, 3, sessions, serviceType="CLASS") for booking in (regular, absent)),
        *(event("check_in", regular, each["sessionId"], numberOfAttendees=3) for each in sessions),
        *(event("no_show" if n else "check_in", absent, each["sessionId"]) for n, each in enumerate(sessions)),
    )
    worst = api.client.get("/v1/bookings", params={"sort": "noShowRate", "limit": 1000}).json()["bookings"]
    rates = {each["bookingId"]: (each["noShowRate"], each["longestNoShowRun"]) for each in worst}
    assert rates[absent] == (0.8, 4)
    assert regular not in rates, "who always came is not among the worst"
    assert api.client.get(f"/v1/bookings/{regular}").json()["noShowRate"] == 0
    alerts = api.client.get("/v1/alerts", params={"bookingId": absent, "kind": "FREQUENT_NO_SHOWS"}).json()["alerts"]
    assert [each["bookingId"] for each in alerts] == [absent]


def test_use_case_compare_attendees_to_participants(api: Api) -> None:
    family, single, session = booking_name(), booking_name(), f"dance-{booking_name()}"
    prepared(
        api,
        upserted(family, 4, [{"sessionId": session}]),
        upserted(single, 1, [{"sessionId": session}]),
        event("check_in", family, session, numberOfAttendees=3),
        event("check_in", single, session, numberOfAttendees=2),
    )
    tally = api.client.get(f"/v1/sessions/{session}").json()
    assert (tally["attendees"], tally["expectedParticipants"], tally["bookings"]) == (5, 5, 2)
    # the totals agree, the bookings do not
    alerts = api.client.get("/v1/alerts", params={"sessionId": session, "kind": "PARTICIPANTS_EXCEEDED"}).json()["alerts"]
    assert [(each["bookingId"], each["expected"]) for each in alerts] == [(single, {"numberOfAttendees": {"atMost": 1}})]


def test_a_mismatch_of_number_and_status_is_accepted_and_alerted(api: Api) -> None:
    booking = booking_name()
    done = api.set(booking, "s1", "NOT_ATTENDED", 5)
    assert done.json()["attendance"]["numberOfAttendees"] == 5
    alerts = api.client.get("/v1/alerts", params={"bookingId": booking}).json()["alerts"]
    assert [each["kind"] for each in alerts] == ["STATUS_COUNT_MISMATCH"]
