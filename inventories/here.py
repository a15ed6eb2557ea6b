"""This machine itself, for the dry run that `make demo` shows where no throw-away host can be started."""

here = ["@local"]
