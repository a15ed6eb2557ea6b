"""What runs on the host itself, from a zip of this package: standard library only."""
