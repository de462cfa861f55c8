"""What operators do: provision and check topics, simulate devices, play real data, run all of it on one machine."""
