"""The report page and the records that it is made from, without torch."""

from splits import renamed

__getattr__ = renamed.attributes(
    __name__, "ensemble.report.report", "ensemble.report.saved_tables"
)
