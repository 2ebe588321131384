"""Trees without input and output: requests, checks of answers, accounts of entries."""
