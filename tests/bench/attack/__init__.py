"""What attacks on one API process cost the others that ask it."""
