"""The live feed: values that are loaded again when Redis changes, shared by all who look at them."""
