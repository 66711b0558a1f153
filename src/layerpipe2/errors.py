"""The one exception that a user's mistake raises."""


class UserError(ValueError):
    """Bad input: its message is one line that says what is wrong, where, and the remedy.

    The command line and the scripts print the message without a traceback and exit with code 2.
    """
