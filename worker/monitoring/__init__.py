"""What a worker shows of itself: metrics, health, and the port that answers for them while its event loop is busy."""
