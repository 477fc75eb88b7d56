"""Everything gRPC that is not a service: server, interceptors, status table, client, jobs, workers.

Services register themselves as entry points; nothing here imports one by name.
"""
