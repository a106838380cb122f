"""The exception for errors that the user can fix.

Scripts print its message and exit with code 2. Any other exception is a defect of this
project and keeps its traceback.
"""


class BadInput(ValueError):
    """An input is wrong; the message says what was found, what is allowed, what to do."""
