"""One function for each page: what it asks the daemon for, and what it shows of that."""
