"""What the machine can do at most, and how close a model comes: `limits`, `work`, `scenarios`, `report`."""
