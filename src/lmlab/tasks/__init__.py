"""What a model can do beside its loss: questions with a right answer, and how it answers them."""
