"""Inference: deployments, loaded adapters in one engine, answers over gRPC and the OpenAI protocol."""
