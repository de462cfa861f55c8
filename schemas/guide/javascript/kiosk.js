// kiosk.js SPOOL_FOLDER: publishes the scans of standard input to Kafka, also after hours without a broker.
//
// A line is `bookingId sessionId [numberOfAttendees]`. Each scan is a finished event in the spool folder before it is reported
// as taken, and stays there, unchanged, until Kafka has acknowledged it.
import { randomUUID } from "node:crypto";
import fs from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Kafka, Partitioners, logLevel } from "kafkajs";

const env = process.env;
const topic = env.KIOSK_TOPIC ?? "attendance.events";
const source = env.KIOSK_SOURCE ?? "/gates/north/kiosk-1";
const timeout = Number(env.KIOSK_TIMEOUT ?? 60) * 1000; // after which the client gives up, and the kiosk sends again
const maxPause = Number(env.KIOSK_MAX_PAUSE ?? 30) * 1000; // between two attempts
const batch = 500;

const spool = process.argv[2];
fs.mkdirSync(spool, { recursive: true });
let ended = false;
let last = 0;

// Writes a file, or a folder's names, to the disk.
function sync(path, text) {
  const file = fs.openSync(path, text === undefined ? "r" : "w");
  try {
    if (text !== undefined) fs.writeFileSync(file, text);
    fs.fsyncSync(file);
  } finally {
    fs.closeSync(file);
  }
}

// Writes a scan to the spool as an event and returns its id; throws if the disk is full.
function take(bookingId, sessionId, number) {
  let now;
  do now = Date.now();
  while (now === last); // so that each scan has a time of its own
  last = now;
  const id = randomUUID();
  const time = new Date(now).toISOString();
  const data = { bookingId, sessionId, ...(number !== undefined && { numberOfAttendees: Number(number) }) };
  const event = { specversion: "1.0", id, source, type: "attendance.check_in", time, data };
  const path = join(spool, `${time.replace(/[-:Z]/g, "")}-${id}`);
  try {
    sync(`${path}.tmp`, JSON.stringify(event));
    fs.renameSync(`${path}.tmp`, `${path}.json`);
  } catch (error) {
    fs.rmSync(`${path}.tmp`, { force: true });
    throw error;
  }
  sync(spool); // the new name is on the disk, too
  return id;
}

// The message of a spooled file; an unusable file is moved aside.
function read(path) {
  try {
    const value = fs.readFileSync(path, "utf8");
    const key = JSON.parse(value).data.bookingId;
    if (typeof key !== "string") throw new Error("no bookingId");
    return [{ key, value }];
  } catch (error) {
    if (error.code === "ENOENT") return []; // another process on this spool has sent it
    console.error(`moved aside: ${path}: ${error.message}`);
    fs.renameSync(path, path.replace(/json$/, "bad"));
    return [];
  }
}

// Sends what is in the spool, oldest first, until the input has ended and the spool is empty.
async function sendAll() {
  const brokers = (env.KIOSK_BROKER ?? "localhost:9092").split(",");
  const retry = { retries: 2, maxRetryTime: timeout };
  const timeouts = { connectionTimeout: Math.min(timeout, 10000), requestTimeout: timeout };
  const kafka = new Kafka({ brokers, retry, ...timeouts, logLevel: logLevel.NOTHING });
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner }); // murmur2
  for (let pause = 1000; ; ) {
    const isLast = ended; // asked first: no scan is added afterwards
    const names = fs.readdirSync(spool).filter((name) => name.endsWith(".json"));
    const paths = names.sort().slice(0, batch).map((name) => join(spool, name));
    if (isLast && paths.length === 0) break;
    try {
      const messages = paths.flatMap(read);
      if (messages.length > 0) {
        await producer.connect();
        await producer.send({ topic, acks: -1, messages }); // until all are acknowledged
        for (const path of paths) fs.rmSync(path, { force: true });
      } else await sleep(100);
      pause = 1000;
    } catch (error) {
      console.error(`not acknowledged: ${error.message}`);
      await sleep(Math.min(pause, maxPause));
      pause *= 2;
    }
  }
  await producer.disconnect();
}

const sender = sendAll();
for await (const line of createInterface({ input: process.stdin })) {
  const scan = /^\s*(\S+)\s+(\S+)(?:\s+(\d+))?\s*$/.exec(line);
  try {
    if (scan) console.log("taken", take(...scan.slice(1)));
    else console.error(`not a scan: ${line}`);
  } catch (error) {
    console.error(`not taken: ${error.message}`);
  }
}
ended = true;
await sender;
