import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.CloudEventData;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.data.BytesCloudEventData;
import io.cloudevents.jackson.JsonCloudEventData;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.KafkaMessageFactory;
import java.net.URI;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;

/** Prints the messages that the Java SDK makes of one event, a JSON line each. */
public class Messages {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> data = Map.of("bookingId", "b1", "sessionId", "s1", "numberOfAttendees", 2);
        Map<String, CloudEventData> kinds = Map.of(
            "object", JsonCloudEventData.wrap(JSON.valueToTree(data)),
            "bytes", BytesCloudEventData.wrap(JSON.writeValueAsBytes(data)));
        for (Map.Entry<String, CloudEventData> kind : kinds.entrySet()) {
            CloudEvent event = CloudEventBuilder.v1()
                .withId("e1")
                .withSource(URI.create("/devices/kiosk-7"))
                .withType("attendance.check_in")
                .withTime(OffsetDateTime.parse("2026-11-22T10:00:00Z"))
                .withData("application/json", kind.getValue())
                .build();
            print("binary " + kind.getKey(), KafkaMessageFactory.createWriter("t").writeBinary(event));
            print("structured " + kind.getKey(), KafkaMessageFactory.createWriter("t").writeStructured(event, JsonFormat.CONTENT_TYPE));
            // what a fleet writes whose data is no JSON to the SDK
            CloudEvent opaque = CloudEventBuilder.v1(event).withDataContentType("application/octet-stream").build();
            print("opaque structured " + kind.getKey(), KafkaMessageFactory.createWriter("t").writeStructured(opaque, JsonFormat.CONTENT_TYPE));
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
