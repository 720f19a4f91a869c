"""What an evaluation adds up, and what it asks beside the loss."""
