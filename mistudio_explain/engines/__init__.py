"""Language-model engines: one small Protocol, one file a kind.

`base` holds the Protocol and its outcomes, `table` and `settings` what an administrator configured, `factory`
makes them. `chatting`, `transport`, `sse` and `failures` are what they share. How they are used is policy/.
"""
