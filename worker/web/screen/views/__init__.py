"""The views of the screen: what each shows, read from Redis, and rendered once for all who look at it."""
