"""The one exception that means: the user can mend this.

Scripts print its message and exit with code 2; any other exception is a defect of
this project and keeps its traceback.
"""


class BadInput(ValueError):
    """What came, what is allowed and what to do, in one message."""
