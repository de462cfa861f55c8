package attendance.bench;

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** How far a pass over the events is; counted by the one stream thread, awaited by another. */
final class Progress {
    private static final OperatingSystemMXBean SYSTEM =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private final long wanted;
    private final CountDownLatch begun = new CountDownLatch(1);
    private final CountDownLatch ended = new CountDownLatch(1);
    private volatile long done;
    private volatile long start;
    private volatile long cpu;

    Progress(long wanted) {
        this.wanted = wanted;
    }

    /** Called with each event, before the work on it. */
    void begin() {
        if (done == 0) {
            start = System.nanoTime();
            cpu = SYSTEM.getProcessCpuTime();
            begun.countDown();
        }
    }

    /** Called with each event, after the work on it; whether it was the last. */
    @SuppressWarnings("NonAtomicOperationOnVolatileField")
    boolean end() {
        done++;
        return done == wanted;
    }

    /** Whether the last event was worked on, or the pass has failed. */
    boolean isDone() {
        return ended.getCount() == 0;
    }

    /** What was written to Redis for the last event is out. */
    void finish() {
        ended.countDown();
    }

    /** Waits for the last event; whether it came in time. */
    boolean await(double firstEventSeconds, double seconds) throws InterruptedException {
        if (!begun.await((long) (firstEventSeconds * 1e3), TimeUnit.MILLISECONDS)) {
            throw new IllegalStateException("no event came in " + firstEventSeconds + " s");
        }
        return ended.await((long) (seconds * 1e3), TimeUnit.MILLISECONDS);
    }

    /** The line that tests/bench/peers reads. */
    String result() throws IOException {
        return String.format(
                java.util.Locale.ROOT,
                "{\"events\": %d, \"started_at\": %.6f, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"peak_rss_bytes\": %d}",
                done,
                start / 1e9, // CLOCK_MONOTONIC on Linux
                (System.nanoTime() - start) / 1e9,
                (SYSTEM.getProcessCpuTime() - cpu) / 1e9,
                peakRssBytes());
    }

    private static long peakRssBytes() throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                return Long.parseLong(line.replaceAll("\\D", "")) * 1024;
            }
        }
        throw new IllegalStateException("/proc/self/status names no VmHWM");
    }
}
