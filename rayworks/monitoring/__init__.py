"""What arrives after a model was trained, and what is to be done about it.

Knows nothing of Prefect or Ray: the decisions are pure, and the ledger is on the storage.
"""

from rayworks.extras import require_ml

require_ml()
