"""Models and tokenizers in the formats of others: Hugging Face's folders, nanoGPT's checkpoints."""
