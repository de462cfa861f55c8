package attendance.bench;

import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;

/** What a consumer group has committed of the one topic that it reads, whose partitions begin with offset 0. */
final class Commits implements AutoCloseable {
    private static final long LOOK_MILLISECONDS = 20;

    private final Admin admin;
    private final String group;

    Commits(String broker, String group) {
        admin = Admin.create(Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, broker));
        this.group = group;
    }

    /** Waits until so many events are committed. */
    void await(long events, double seconds) throws InterruptedException, ExecutionException {
        long deadline = System.nanoTime() + (long) (seconds * 1e9);
        while (committed() < events) {
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("only " + committed() + " events were committed");
            }
            TimeUnit.MILLISECONDS.sleep(LOOK_MILLISECONDS);
        }
    }

    private long committed() throws InterruptedException, ExecutionException {
        return admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().values().stream()
                .filter(offset -> offset != null)
                .mapToLong(offset -> offset.offset())
                .sum();
    }

    @Override
    public void close() {
        admin.close();
    }
}
