"""The contract: ids, times, attendances."""
