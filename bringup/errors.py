"""The one exception that people are meant to read."""


class BringupError(Exception):
    """Something that the user can mend; the message says what was wrong, where, and what to do.

    The command line prints the message and exits 1, without a traceback.
    """

    def __init__(self, message: str) -> None:
        """Keep the message."""
        super().__init__(message)
        self.message = message
