import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.CloudEventData;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.data.BytesCloudEventData;
import io.cloudevents.core.message.Encoding;
import io.cloudevents.jackson.JsonCloudEventData;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.CloudEventSerializer;
import io.cloudevents.kafka.KafkaMessageFactory;
import java.net.URI;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Prints the messages that the Java SDK makes of one event, a JSON line each. With BROKER TOPIC SESSION it publishes them by
 * Kafka's client and the SDK's serializer, each of a booking that is named for its case.
 */
public class Messages {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        for (String kind : List.of("object", "bytes")) {
            if (arguments.length == 0) {
                CloudEvent event = event(kind, "b1", "s1", OffsetDateTime.parse("2026-11-22T10:00:00Z"));
                print("binary " + kind, KafkaMessageFactory.createWriter("t").writeBinary(event));
                print("structured " + kind, KafkaMessageFactory.createWriter("t").writeStructured(event, JsonFormat.CONTENT_TYPE));
                // what a fleet writes whose data is no JSON to the SDK
                CloudEvent opaque = CloudEventBuilder.v1(event).withDataContentType("application/octet-stream").build();
                print("opaque structured " + kind, KafkaMessageFactory.createWriter("t").writeStructured(opaque, JsonFormat.CONTENT_TYPE));
                continue;
            }
            for (Encoding mode : List.of(Encoding.BINARY, Encoding.STRUCTURED)) {
                String booking = "java " + mode.name().toLowerCase() + " " + kind;
                publish(arguments, mode, booking, event(kind, booking, arguments[2], OffsetDateTime.now(ZoneOffset.UTC)));
            }
        }
    }

    private static CloudEvent event(String kind, String booking, String session, OffsetDateTime time) throws Exception {
        Map<String, Object> data = Map.of("bookingId", booking, "sessionId", session, "numberOfAttendees", 2);
        CloudEventData wrapped = kind.equals("bytes")
            ? BytesCloudEventData.wrap(JSON.writeValueAsBytes(data))
            : JsonCloudEventData.wrap(JSON.valueToTree(data));
        return CloudEventBuilder.v1()
            .withId("e1")
            .withSource(URI.create("/devices/kiosk-7"))
            .withType("attendance.check_in")
            .withTime(time)
            .withData("application/json", wrapped)
            .build();
    }

    private static void publish(String[] arguments, Encoding mode, String booking, CloudEvent event) throws Exception {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", arguments[0]);
        config.put("acks", "all");
        config.put("key.serializer", StringSerializer.class);
        config.put("value.serializer", CloudEventSerializer.class);
        config.put(CloudEventSerializer.ENCODING_CONFIG, mode);
        config.put(CloudEventSerializer.EVENT_FORMAT_CONFIG, JsonFormat.CONTENT_TYPE);
        try (KafkaProducer<String, CloudEvent> producer = new KafkaProducer<>(config)) {
            producer.send(new ProducerRecord<>(arguments[1], booking, event)).get();
        }
    }

    private static void print(String name, ProducerRecord<Void, byte[]> made) throws Exception {
        List<List<String>> headers = new ArrayList<>();
        for (Header each : made.headers()) {
            headers.add(List.of(each.key(), Base64.getEncoder().encodeToString(each.value())));
        }
        System.out.println(JSON.writeValueAsString(Map.of("case", name, "headers", headers, "value", made.value())));
    }
}
