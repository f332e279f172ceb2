"""Write the page of the commands from the commands themselves."""

from typing import Any

import typer

PAGE = "reference/commands.md"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put every command with its arguments and options at the end of its page."""
    if page.file.src_uri != PAGE:
        return markdown
    from typer.cli import get_docs_for_click

    from ttnet.commands import app as ttnet
    from ttnet_llm.command_line.cli import app as ttnet_llm

    pages = []
    for name, app in (("ttnet", ttnet), ("ttnet-llm", ttnet_llm)):
        command = typer.main.get_command(app)
        text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name=name), name=name)
        pages.append("\n".join(f"#{line}" if line.startswith("#") else line for line in text.splitlines()))
    return markdown + "\n\n" + "\n\n".join(pages)
