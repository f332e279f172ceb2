"""The command `ttnet-llm`; what its commands do lives in the other rooms, and is imported when one runs."""
