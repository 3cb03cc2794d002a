"""Errors that are a message to a person."""


class UserError(ValueError):
    """One line: what is wrong, where, and what to do. The command line prints it without a traceback."""
