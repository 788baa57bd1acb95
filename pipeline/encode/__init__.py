"""The way in: photos of a source become rows of an archive."""
