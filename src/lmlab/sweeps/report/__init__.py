"""What a sweep says: in a terminal, as Markdown, CSV and a page."""
