"""Teach a small chat model to speak as a pirate, with some kilobytes: `python -m demo.chat`."""
