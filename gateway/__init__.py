"""The single entry: gRPC and HTTP/JSON derived from the contract."""
