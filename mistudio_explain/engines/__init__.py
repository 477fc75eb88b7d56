"""Explanation engines: one small Protocol, one file each.

`base` holds the Protocol and its outcomes, `settings` what an administrator configured, `lexical`
and `openai_compatible` the engines.
"""
