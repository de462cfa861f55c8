"""kiosk.py SPOOL_FOLDER: publishes the scans of standard input to Kafka, also after hours without a broker.

A line is `bookingId sessionId [numberOfAttendees]`. Each scan is a finished event in the spool folder before it is reported
as taken, and stays there, unchanged, until Kafka has acknowledged it.
"""

import json
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

from confluent_kafka import KafkaException, Producer

BROKER = os.environ.get("KIOSK_BROKER", "localhost:9092")
TOPIC = os.environ.get("KIOSK_TOPIC", "attendance.events")
SOURCE = os.environ.get("KIOSK_SOURCE", "/gates/north/kiosk-1")
TIMEOUT = float(os.environ.get("KIOSK_TIMEOUT", "60"))  # seconds after which the client gives up, and the kiosk sends again
MAX_PAUSE = float(os.environ.get("KIOSK_MAX_PAUSE", "30"))  # seconds between two attempts
BATCH = 500


def take(spool: Path, line: str) -> str:
    """Writes a scan to the spool as an event and returns its id. Raises ValueError for no scan, OSError for a full disk."""
    booking_id, session_id, *number = line.split()
    data: dict[str, object] = {"bookingId": booking_id, "sessionId": session_id}
    if number:
        data["numberOfAttendees"] = int(*number)
    now, event_id = datetime.now(UTC), str(uuid4())
    event = {"specversion": "1.0", "id": event_id, "source": SOURCE, "type": "attendance.check_in", "time": now.isoformat()}
    path = spool / f"{now:%Y%m%dT%H%M%S.%f}-{event_id}.json"
    unfinished = path.with_suffix(".tmp")
    try:
        with unfinished.open("w") as file:
            json.dump({**event, "data": data}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(spool, os.O_RDONLY)
    os.fsync(folder)  # the new name is on the disk, too
    os.close(folder)
    return event_id


def send(producer: Producer, path: Path) -> None:
    """Hands a spooled event to the client, which deletes the file once Kafka has it; an unusable file is moved aside."""
    try:
        value = path.read_bytes()
        key = json.loads(value)["data"]["bookingId"].encode()
        producer.produce(TOPIC, value, key, on_delivery=lambda error, _: None if error else path.unlink(missing_ok=True))
    except FileNotFoundError:
        pass  # another process on this spool has sent it
    except (OSError, ValueError, LookupError, TypeError, AttributeError, KafkaException) as error:
        print(f"moved aside: {path}: {error}", file=sys.stderr)
        with suppress(OSError):
            path.rename(path.with_suffix(".bad"))


def send_all(spool: Path, ended: Event) -> None:
    """Sends what is in the spool, oldest first, until the input has ended and the spool is empty."""
    config = {"bootstrap.servers": BROKER, "acks": "all", "partitioner": "murmur2_random", "linger.ms": 5}
    # without log lines for each connection that is refused
    producer = Producer({**config, "message.timeout.ms": int(TIMEOUT * 1000), "log_level": 2})
    pause = 1.0
    while True:
        is_last = ended.is_set()  # asked first: no scan is added afterwards
        paths = sorted(spool.glob("*.json"))[:BATCH]
        if is_last and not paths:
            return
        for path in paths:
            send(producer, path)
        producer.flush()  # until each is acknowledged or has timed out
        if left := sum(path.exists() for path in paths):
            print(f"not acknowledged: {left} events, sent again", file=sys.stderr)
            time.sleep(min(pause, MAX_PAUSE))
            pause *= 2
        else:
            pause = 1.0
            if not paths:
                ended.wait(0.1)


def main() -> None:
    spool, ended = Path(sys.argv[1]), Event()
    spool.mkdir(parents=True, exist_ok=True)
    sender = Thread(target=send_all, args=(spool, ended), daemon=True)
    sender.start()
    for line in sys.stdin.buffer:
        try:
            print("taken", take(spool, line.decode()), flush=True)
        except (ValueError, TypeError):
            print(f"not a scan: {line!r}", file=sys.stderr)
        except OSError as error:
            print(f"not taken: {error}", file=sys.stderr)
    ended.set()
    sender.join()


if __name__ == "__main__":
    main()
