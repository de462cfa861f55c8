package attendance.bench;

import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.Stores;
import redis.clients.jedis.Jedis;

/**
 * The job in Kafka Streams: one thread, a RocksDB store with cache and changelog, Redis pipelined.
 *
 * <p>The JIT is warmed up by a pass over the first events under another application id, whose traces in Redis are erased;
 * then all events are read again, and this is what is measured: to its last commit, when state and changelog hold what the
 * cache held, and the offsets of all events are committed. As soon as the last event was worked on, each task is asked for it.
 */
public final class KafkaStreamsPeer {
    private static final long WARM_UP_EVENTS = 300_000;
    private static final double FIRST_EVENT_SECONDS = 60;
    private static final double COMMIT_SECONDS = 30;
    private static final Duration STOP = Duration.ofSeconds(20);
    // the default is 10 MB; the documentation advises more where fewer writes to store and changelog are wanted, and it
    // took 8 % less CPU here
    private static final long CACHE_BYTES = 64L * 1024 * 1024;
    // with the default of 30 s the run would be over before much of that cache was ever written to store and changelog
    private static final long COMMIT_MILLISECONDS = 5_000;

    private final Map<String, String> options;
    private final Path folder;

    private KafkaStreamsPeer(Map<String, String> options, Path folder) {
        this.options = options;
        this.folder = folder;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int at = 0; at < arguments.length; at += 2) {
            options.put(arguments[at].replaceFirst("^--", ""), arguments[at + 1]);
        }
        KafkaStreamsPeer peer = new KafkaStreamsPeer(options, Files.createTempDirectory(Path.of("."), "streams"));
        long events = Long.parseLong(options.get("events"));
        double seconds = Double.parseDouble(options.get("seconds"));
        peer.pass("warm-up", Math.min(WARM_UP_EVENTS, events), seconds);
        try (Jedis jedis = new Jedis(URI.create(options.get("redis")))) {
            jedis.flushDB();
        }
        System.gc();
        System.out.println(peer.pass("measured", events, seconds));
        System.exit(0); // the folder is the benchmark's to delete
    }

    /** Works on so many events, until they are committed, at most so long; what it did. */
    private String pass(String name, long events, double seconds) throws Exception {
        Progress progress = new Progress(events);
        AtomicReference<Throwable> failure = new AtomicReference<>();
        try (RedisDocuments redis = new RedisDocuments(options.get("redis"));
                Commits commits = new Commits(options.get("broker"), application(name));
                KafkaStreams streams = new KafkaStreams(topology(redis, progress), settings(name))) {
            streams.setUncaughtExceptionHandler(error -> {
                failure.set(error);
                progress.finish();
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.start();
            if (progress.await(FIRST_EVENT_SECONDS, seconds) && failure.get() == null) {
                commits.await(events, COMMIT_SECONDS);
            }
            String result = progress.result();
            streams.close(STOP);
            if (failure.get() != null) {
                throw new IllegalStateException("the stream thread failed", failure.get());
            }
            return result;
        }
    }

    private Topology topology(RedisDocuments redis, Progress progress) {
        return new Topology()
                .addSource(
                        "events",
                        Serdes.String().deserializer(),
                        new JsonSerde<>(Event.class).deserializer(),
                        options.get("topic"))
                .addProcessor("fold", () -> new Fold(redis, progress), "events")
                .addStateStore(
                        Stores.keyValueStoreBuilder(
                                        Stores.persistentKeyValueStore(Fold.STORE),
                                        Serdes.String(),
                                        new JsonSerde<>(Attendance.class))
                                .withCachingEnabled(),
                        "fold");
    }

    private static String application(String name) {
        return "kafka-streams-" + name + "-" + ProcessHandle.current().pid();
    }

    private Properties settings(String name) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application(name));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("broker"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, folder.toString());
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, CACHE_BYTES);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, COMMIT_MILLISECONDS);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        return settings;
    }
}
