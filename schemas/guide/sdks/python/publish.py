"""publish.py BOOKING SESSION structured|binary: publishes a check-in that the CloudEvents SDK has made."""

import os
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Producer

booking_id, session_id, mode = sys.argv[1:]
attributes: dict[str, Any] = {
    "specversion": "1.0",
    "id": str(uuid4()),
    "source": "/gates/north/kiosk-1",
    "type": "attendance.check_in",
    "time": datetime.now(UTC),
    "datacontenttype": "application/json",
}
data: Any = {"bookingId": booking_id, "sessionId": session_id, "numberOfAttendees": 2}
write = kafka.to_binary if mode == "binary" else kafka.to_structured
message = write(CloudEvent(attributes, data), JSONFormat())

broker = os.environ.get("KIOSK_BROKER", "localhost:9092")
producer = Producer({"bootstrap.servers": broker, "acks": "all", "partitioner": "murmur2_random"})
topic = os.environ.get("KIOSK_TOPIC", "attendance.events")
producer.produce(topic, message.value, booking_id, headers=list(message.headers.items()))
if producer.flush(30):
    raise SystemExit("not acknowledged: send the same message again")
