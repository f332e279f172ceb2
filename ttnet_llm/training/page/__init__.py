"""`report.html`: a run as one page without outside links."""

from ttnet_llm.training.page.page import write_page

__all__ = ["write_page"]
