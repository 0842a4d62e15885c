"""Who answers: arms, our inference, OpenAI-compatible endpoints."""
