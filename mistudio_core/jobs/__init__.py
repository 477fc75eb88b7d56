"""Durable jobs: records, state machine, store, events, and the context that domain code runs in."""
