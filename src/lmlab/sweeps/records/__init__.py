"""Records: recipes of small models that are compared by fixed rules (docs/records.md)."""
