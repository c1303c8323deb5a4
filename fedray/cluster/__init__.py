"""The clients as Ray actors. This folder is the only one that imports ray."""
