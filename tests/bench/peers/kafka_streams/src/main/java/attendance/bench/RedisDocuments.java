package attendance.bench;

import java.net.URI;
import java.nio.charset.StandardCharsets;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.Pipeline;

/** Writes documents and their index entries, pipelined. */
final class RedisDocuments implements AutoCloseable {
    private static final int AT_ONCE = 500;

    private final Jedis jedis;
    private final Pipeline pipeline;
    private int waiting;

    RedisDocuments(String url) {
        jedis = new Jedis(URI.create(url));
        pipeline = jedis.pipelined();
    }

    void write(String key, Attendance attendance, byte[] document) {
        pipeline.set(("attendance:" + key).getBytes(StandardCharsets.UTF_8), document);
        pipeline.sadd("booking:" + attendance.bookingId(), key);
        pipeline.sadd("session:" + attendance.sessionId(), key);
        waiting++;
        if (waiting >= AT_ONCE) {
            flush();
        }
    }

    void flush() {
        if (waiting > 0) {
            pipeline.sync();
            waiting = 0;
        }
    }

    @Override
    public void close() {
        flush();
        pipeline.close();
        jedis.close();
    }
}
