"""The way out: rows of an archive become image files."""
