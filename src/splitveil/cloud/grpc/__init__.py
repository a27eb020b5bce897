"""The Open Inference Protocol v2 over gRPC, beside REST and over the same service."""
