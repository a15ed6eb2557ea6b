"""Views of smoke records, and the commands that show them."""
