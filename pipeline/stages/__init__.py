"""What jobs do on Ray, stage by stage."""

import os

# Ray Data reads it when it is imported. With it the bound on what waits for a stage (`resources.READ_AHEAD`) holds from the
# first byte on, and not only when half of Ray Data's share of the object stores is full.
os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")
