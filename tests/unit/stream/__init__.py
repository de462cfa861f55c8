"""Steps of the stream."""
