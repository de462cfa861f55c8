package attendance.bench;

import java.time.Duration;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** The newest event of a booking and session wins; its attendance goes to the store and to Redis. */
final class Fold implements Processor<String, Event, Void, Void> {
    static final String STORE = "attendance";

    private static final JsonSerde<Attendance> JSON = new JsonSerde<>(Attendance.class);
    private static final Duration LONGEST_WAIT = Duration.ofMillis(50);

    private final RedisDocuments redis;
    private final Progress progress;
    private KeyValueStore<String, Attendance> store;

    Fold(RedisDocuments redis, Progress progress) {
        this.redis = redis;
        this.progress = progress;
    }

    @Override
    public void init(ProcessorContext<Void, Void> context) {
        store = context.getStateStore(STORE);
        context.schedule(LONGEST_WAIT, PunctuationType.WALL_CLOCK_TIME, now -> {
            redis.flush();
            if (progress.isDone()) {
                // each task commits for itself; without this the end would wait for the commit interval
                context.commit();
            }
        });
    }

    @Override
    public void process(Record<String, Event> record) {
        progress.begin();
        Event event = record.value();
        String key = event.key();
        Attendance known = store.get(key);
        if (known == null || event.time().compareTo(known.updatedDate()) >= 0) {
            Attendance attendance = event.attendance();
            store.put(key, attendance);
            redis.write(key, attendance, JSON.bytes(attendance));
        }
        if (progress.end()) {
            redis.flush();
            progress.finish();
        }
    }
}
