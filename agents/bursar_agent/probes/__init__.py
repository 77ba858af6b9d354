"""What this machine really has and what it is doing: facts once, live readings about once a second."""
