"""The laws of the contract as properties: the product, through `subject`, against the oracle."""
