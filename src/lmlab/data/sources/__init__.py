"""How files of text are read: as they are, decompressed, record by record."""
