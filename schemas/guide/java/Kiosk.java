import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.*;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.time.*;
import java.time.format.DateTimeFormatter;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.serialization.*;

/**
 * Kiosk SPOOL_FOLDER: publishes the scans of standard input to Kafka, also after hours without a broker.
 *
 * A line is `bookingId sessionId [numberOfAttendees]`. Each scan is a finished event in the spool folder before it is reported
 * as taken, and stays there, unchanged, until Kafka has acknowledged it.
 */
public final class Kiosk {
    static final Map<String, String> ENV = System.getenv();
    static final String TOPIC = ENV.getOrDefault("KIOSK_TOPIC", "attendance.events");
    static final String SOURCE = ENV.getOrDefault("KIOSK_SOURCE", "/gates/north/kiosk-1");
    /** Milliseconds after which the client gives up, and the kiosk sends again. */
    static final int TIMEOUT = (int) (1000 * Double.parseDouble(ENV.getOrDefault("KIOSK_TIMEOUT", "60")));
    /** Milliseconds between two attempts. */
    static final long MAX_PAUSE = (long) (1000 * Double.parseDouble(ENV.getOrDefault("KIOSK_MAX_PAUSE", "30")));
    static final int BATCH = 500;
    static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'").withZone(ZoneOffset.UTC);
    static final ObjectMapper JSON = new ObjectMapper();
    static volatile boolean ended;

    /** Writes a scan to the spool as an event and returns its id. */
    static String take(Path spool, String[] words) throws IOException {
        if (words.length < 2 || words.length > 3) {
            throw new IllegalArgumentException("two or three words");
        }
        String id = UUID.randomUUID().toString();
        String time = TIME.format(Instant.now());
        ObjectNode event = JSON.createObjectNode().put("specversion", "1.0").put("id", id).put("source", SOURCE);
        event.put("type", "attendance.check_in").put("time", time);
        ObjectNode data = event.putObject("data").put("bookingId", words[0]).put("sessionId", words[1]);
        if (words.length == 3) {
            data.put("numberOfAttendees", Integer.parseInt(words[2]));
        }
        String name = time.replaceAll("[-:Z]", "") + "-" + id;
        Path unfinished = spool.resolve(name + ".tmp");
        try {
            try (FileChannel file = FileChannel.open(unfinished, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
                ByteBuffer bytes = ByteBuffer.wrap(JSON.writeValueAsBytes(event));
                while (bytes.hasRemaining()) {
                    file.write(bytes);
                }
                file.force(true);
            }
            Files.move(unfinished, spool.resolve(name + ".json"), StandardCopyOption.ATOMIC_MOVE);
        } catch (IOException error) {
            Files.deleteIfExists(unfinished);
            throw error;
        }
        try (FileChannel folder = FileChannel.open(spool)) {
            folder.force(true); // the new name is on the disk, too
        }
        return id;
    }

    /** The record of a spooled file; an unusable file is moved aside. */
    static Optional<ProducerRecord<String, byte[]>> read(Path path) throws IOException {
        try {
            byte[] value = Files.readAllBytes(path);
            String key = JSON.readTree(value).requiredAt("/data/bookingId").textValue();
            return Optional.of(new ProducerRecord<>(TOPIC, Objects.requireNonNull(key, "no bookingId"), value));
        } catch (NoSuchFileException gone) {
            return Optional.empty(); // another process on this spool has sent it
        } catch (IOException | RuntimeException error) {
            System.err.println("moved aside: " + path + ": " + error.getMessage().lines().findFirst().orElse(""));
            Files.move(path, Path.of(path.toString().replaceAll("json$", "bad")));
            return Optional.empty();
        }
    }

    /** Sends what is in the spool, oldest first, until the input has ended and the spool is empty. */
    static void sendAll(Path spool) throws InterruptedException {
        // acks=all and murmur2 are the defaults; a copy counts once, so the producer need not be idempotent
        Map<String, Object> config = Map.of("bootstrap.servers", ENV.getOrDefault("KIOSK_BROKER", "localhost:9092"),
            "enable.idempotence", false, "acks", "all", "delivery.timeout.ms", TIMEOUT, "request.timeout.ms", TIMEOUT / 2,
            "max.block.ms", TIMEOUT);
        try (Producer<String, byte[]> producer = new KafkaProducer<>(config, new StringSerializer(), new ByteArraySerializer())) {
            for (long pause = 1000; ; ) {
                boolean isLast = ended; // asked first: no scan is added afterwards
                try (Stream<Path> files = Files.list(spool)) {
                    List<Path> paths = files.filter(path -> path.toString().endsWith(".json")).sorted().limit(BATCH).toList();
                    if (isLast && paths.isEmpty()) {
                        return;
                    }
                    producer.partitionsFor(TOPIC); // waits for a broker once, where each send would wait for itself
                    Map<Path, Future<RecordMetadata>> sent = new LinkedHashMap<>();
                    for (Path path : paths) {
                        read(path).ifPresent(record -> sent.put(path, producer.send(record)));
                    }
                    producer.flush(); // until each is acknowledged or has timed out
                    for (Map.Entry<Path, Future<RecordMetadata>> each : sent.entrySet()) {
                        each.getValue().get();
                        Files.deleteIfExists(each.getKey());
                    }
                    pause = 1000;
                    if (sent.isEmpty()) {
                        Thread.sleep(100);
                    }
                } catch (ExecutionException | KafkaException | IOException error) {
                    System.err.println("not acknowledged: " + error.getMessage());
                    Thread.sleep(Math.min(pause, MAX_PAUSE));
                    pause *= 2;
                }
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        Path spool = Files.createDirectories(Path.of(arguments[0]));
        ExecutorService thread = Executors.newSingleThreadExecutor();
        Future<?> sender = thread.submit(() -> {
            sendAll(spool);
            return null;
        });
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            try {
                System.out.println("taken " + take(spool, line.strip().split("\\s+")));
            } catch (IllegalArgumentException error) {
                System.err.println("not a scan: " + line);
            } catch (IOException error) {
                System.err.println("not taken: " + error.getMessage());
            }
        }
        ended = true;
        sender.get();
        thread.shutdown();
    }
}
