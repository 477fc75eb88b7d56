"""The `mistudio` command."""
