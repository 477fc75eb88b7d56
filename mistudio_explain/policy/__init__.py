"""How engines are used: which model, how often, how many at a time, for how much money.

One file each: routing, retries, breaker, window, budget, cache; `guarded` puts them around an engine.
"""
