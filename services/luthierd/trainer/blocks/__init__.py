"""Building blocks of training: model, LoRA, encoding, batches, checkpoints. They know no method and no job."""
