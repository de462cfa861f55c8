"""Tasks of operators: provision and check topics, publish and simulate events, run the whole system on one machine."""
