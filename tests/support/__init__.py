"""What tests are made with: services, the oracle, worlds of events, processes to kill."""
