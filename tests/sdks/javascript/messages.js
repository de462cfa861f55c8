// messages.js: the messages that the JavaScript SDK makes of one event, a JSON line each.
// messages.js BROKER TOPIC SESSION: publishes them by kafkajs, each of a booking that is named for its case.
// kafkajs takes text or bytes: an object is written as JSON.
import { CloudEvent, Kafka as binding } from "cloudevents";
import { Kafka, Partitioners, logLevel } from "kafkajs";

const [broker, topic, session] = process.argv.slice(2);

function messages() {
  const all = [];
  for (const kind of ["object", "bytes"]) {
    for (const mode of ["binary", "structured"]) {
      const name = `${mode} ${kind}`;
      const data = { bookingId: broker ? `javascript ${name}` : "b1", sessionId: session ?? "s1", numberOfAttendees: 2 };
      const event = new CloudEvent({
        specversion: "1.0",
        id: "e1",
        source: "/devices/kiosk-7",
        type: "attendance.check_in",
        time: broker ? new Date().toISOString() : "2026-11-22T10:00:00.000Z",
        datacontenttype: "application/json",
        data: kind === "bytes" ? Buffer.from(JSON.stringify(data)) : data,
      });
      const made = binding[mode](event);
      // attributes that an event does not have are headers without a value, which kafkajs refuses
      const headers = Object.fromEntries(Object.entries(made.headers).filter(([, text]) => text !== undefined));
      const isReady = typeof made.value === "string" || made.value instanceof Uint8Array;
      const value = isReady ? made.value : JSON.stringify(made.value);
      all.push({ name, key: data.bookingId, headers, value });
    }
  }
  return all;
}

const base64 = (text) => Buffer.from(text).toString("base64");
if (broker) {
  const producer = new Kafka({ brokers: [broker], logLevel: logLevel.ERROR }).producer({
    createPartitioner: Partitioners.DefaultPartitioner,
  });
  await producer.connect();
  await producer.send({ topic, acks: -1, messages: messages().map(({ key, headers, value }) => ({ key, headers, value })) });
  await producer.disconnect();
} else {
  for (const { name, headers, value } of messages()) {
    const pairs = Object.entries(headers).map(([header, text]) => [header, base64(text)]);
    console.log(JSON.stringify({ case: name, headers: pairs, value: base64(value) }));
  }
}
