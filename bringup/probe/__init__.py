"""Text that a host printed → what it means. Pure parsers, one module a subject; they raise ValueError only."""
