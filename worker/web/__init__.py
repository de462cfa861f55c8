"""The Attendance API over HTTP (contract, section 4): reads from Redis, changes through Kafka. Never imports Faust."""
