"""`mistudio token`: the bearer token of a home, for programs that call the API.

Written once, mode 0600, in the home; nothing else prints it.
"""

from __future__ import annotations

from mistudio_cli import options
from mistudio_cli.output import emit, say
from mistudio_core.home import Home


def token(home: options.Home = None, as_json: options.Json = False) -> None:
    """Print the bearer token; it is made at the first start."""
    value = Home.at(home).token().reveal()
    if as_json:
        emit({"token": value})
    else:
        say(value)
