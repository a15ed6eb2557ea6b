"""The card as the running machine shows it: read, put to work, and judged."""
