// publish.js BOOKING SESSION structured|binary: publishes a check-in that the CloudEvents SDK has made.
import { randomUUID } from "node:crypto";
import { CloudEvent, Kafka as binding } from "cloudevents";
import { Kafka, Partitioners } from "kafkajs";

const [bookingId, sessionId, mode] = process.argv.slice(2);
const event = new CloudEvent({
  specversion: "1.0",
  id: randomUUID(),
  source: "/gates/north/kiosk-1",
  type: "attendance.check_in",
  time: new Date().toISOString(),
  datacontenttype: "application/json",
  data: { bookingId, sessionId, numberOfAttendees: 2 },
});
const made = mode === "binary" ? binding.binary(event) : binding.structured(event);
// kafkajs takes text, and refuses the headers without a value that the SDK makes of attributes which the event does not have
const value = typeof made.value === "string" ? made.value : JSON.stringify(made.value);
const headers = Object.fromEntries(Object.entries(made.headers).filter(([, text]) => text !== undefined));

const kafka = new Kafka({ brokers: [process.env.KIOSK_BROKER ?? "localhost:9092"] });
const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner }); // murmur2
await producer.connect();
const topic = process.env.KIOSK_TOPIC ?? "attendance.events";
await producer.send({ topic, acks: -1, messages: [{ key: bookingId, headers, value }] });
await producer.disconnect();
