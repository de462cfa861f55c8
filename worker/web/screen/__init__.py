"""The operations screen: HTML pages and their live fragments, for people at a desk, at a door and at a wall."""
