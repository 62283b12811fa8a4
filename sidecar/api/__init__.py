"""HTTP in, HTTP out: who may ask, what was asked, what goes back."""
