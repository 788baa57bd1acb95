"""Where bytes lie: local files, S3, and other stores through fsspec."""
