"""What came of a run, as one page that anybody can open."""

from unsee.report.page import Report, Shot, write_page

__all__ = ["Report", "Shot", "write_page"]
