"""Looking inside: traces, what the model would have said after each layer, what pushed a token, edits, scores."""
