"""How the starter model's eyes were trained."""
