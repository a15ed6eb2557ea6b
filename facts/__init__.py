"""Facts that pyinfra collects from hosts."""
