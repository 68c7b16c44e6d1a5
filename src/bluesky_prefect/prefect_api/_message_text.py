"""Templates of text in messages, which Prefect's server renders."""

# What chat services make mentions of everybody, links that show another address, and pictures of. Most blocks send
# their text raw; Slack's translates "<!channel>" and "!channel>" back, however they were escaped.
_AS_TEXT = r"replace('<', '\u2039') | replace('>', '\u203a') | replace('@', '@\u200b') | replace('](', ']\u200b(')"
# No more of a reason is told, in characters.
REASON_LENGTH = 500


def as_text(value: str) -> str:
    """Return the template of a value that anybody may have typed, in which a chat service finds no markup."""
    return f"{{{{ {value} | {_AS_TEXT} }}}}"
