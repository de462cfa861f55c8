"""What tests are made with: the oracle against examples worked by hand."""
