// The messages that the JavaScript SDK makes of one event, a JSON line each; kafkajs sends objects as their users write them, as JSON.
import { CloudEvent, Kafka } from "cloudevents";

const data = { bookingId: "b1", sessionId: "s1", numberOfAttendees: 2 };
const kinds = { object: data, bytes: Buffer.from(JSON.stringify(data)) };

const base64 = (text) => Buffer.from(text).toString("base64");
for (const [kind, given] of Object.entries(kinds)) {
  const event = new CloudEvent({
    specversion: "1.0",
    id: "e1",
    source: "/devices/kiosk-7",
    type: "attendance.check_in",
    time: "2026-11-22T10:00:00.000Z",
    datacontenttype: "application/json",
    data: given,
  });
  for (const mode of ["binary", "structured"]) {
    const { headers, value } = Kafka[mode](event);
    const sent = typeof value === "string" || value instanceof Uint8Array ? value : JSON.stringify(value);
    // attributes that the event does not have are headers without a value, which kafkajs refuses
    const pairs = Object.entries(headers).filter(([, text]) => text !== undefined).map(([name, text]) => [name, base64(text)]);
    console.log(JSON.stringify({ case: `${mode} ${kind}`, headers: pairs, value: base64(sent) }));
  }
}
