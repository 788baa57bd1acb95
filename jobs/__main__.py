"""`python -m jobs`: the same as `photoark`."""

from jobs.cli import main

main()
