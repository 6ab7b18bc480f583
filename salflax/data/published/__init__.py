"""Published data sets: where their files lie."""
