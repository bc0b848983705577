"""Any function over any number of items: chunks by measured cost, results on the storage, failures item by item."""
