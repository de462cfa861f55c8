"""Why an attendance is what it is: its events, read from the topics again, and what the law makes of each."""
