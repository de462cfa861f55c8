"""The system from outside, on a real Kafka and a real Redis."""
