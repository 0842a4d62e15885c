"""Inference: deployments, adapter generations in one engine, answers over gRPC and the OpenAI protocol."""
