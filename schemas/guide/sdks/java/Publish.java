import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.message.Encoding;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.CloudEventSerializer;
import java.net.URI;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/** Publish BOOKING SESSION structured|binary: publishes a check-in that the CloudEvents SDK writes. */
public final class Publish {
    public static void main(String[] arguments) throws Exception {
        String data = String.format("{\"bookingId\": \"%s\", \"sessionId\": \"%s\", \"numberOfAttendees\": 2}", arguments[0], arguments[1]);
        CloudEvent event = CloudEventBuilder.v1()
            .withId(UUID.randomUUID().toString())
            .withSource(URI.create("/gates/north/kiosk-1"))
            .withType("attendance.check_in")
            .withTime(OffsetDateTime.now(ZoneOffset.UTC))
            .withData("application/json", data.getBytes("UTF-8"))
            .build();
        Map<String, Object> config = Map.of(
            "bootstrap.servers", System.getenv().getOrDefault("KIOSK_BROKER", "localhost:9092"),
            "acks", "all",
            "key.serializer", StringSerializer.class,
            "value.serializer", CloudEventSerializer.class,
            CloudEventSerializer.ENCODING_CONFIG, Encoding.valueOf(arguments[2].toUpperCase()),
            CloudEventSerializer.EVENT_FORMAT_CONFIG, JsonFormat.CONTENT_TYPE); // of structured mode
        String topic = System.getenv().getOrDefault("KIOSK_TOPIC", "attendance.events");
        try (KafkaProducer<String, CloudEvent> producer = new KafkaProducer<>(config)) {
            producer.send(new ProducerRecord<>(topic, arguments[0], event)).get();
        }
    }
}
