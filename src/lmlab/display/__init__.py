"""What a person looks at: event files, pictures, the board."""
