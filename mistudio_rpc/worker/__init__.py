"""The worker process: takes one job from its service, runs it, reports, ends.

`python -m mistudio_rpc.worker FD MODULES` is started by the launcher; nothing else starts it.
"""
