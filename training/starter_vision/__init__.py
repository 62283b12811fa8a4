"""Training of the starter model's eyes: pictures drawn on the fly, a frozen language model, one GPU."""
