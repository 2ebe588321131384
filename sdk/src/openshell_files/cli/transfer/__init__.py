"""Commands that transfer files, and the store of unfinished uploads."""
