"""The Attendance API over HTTP, see `worker/web/README.md`: reads from Redis, changes through Kafka. Never imports Faust."""
